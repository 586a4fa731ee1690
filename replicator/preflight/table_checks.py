"""Facts about the tables of one side: keys and identities, what the log does not carry, rights."""

from collections.abc import Iterable
from dataclasses import dataclass

from replicator.core.tables import Table
from replicator.postgres.catalog.inspect import Relation
from replicator.postgres.session.server import Plugin
from replicator.preflight.finding import Verdict, counted, failed, listed, passed, warned


@dataclass(frozen=True, kw_only=True)
class TablesSubject:
    """The tables of one schema, and what the migration does with them: by name."""

    relations: tuple[Relation, ...]
    tables: tuple[Table, ...]
    role: str
    plugin: Plugin | None
    """What the log of this side will be decoded with."""
    sources: frozenset[str]
    """Read by a transform directly: each change in the log becomes target rows."""
    read: frozenset[str]
    """``sources``, and what queries depend on."""
    written: frozenset[str]
    retired: frozenset[str] = frozenset()
    """The cutover fences writes to these off as well."""

    def of(self, names: Iterable[str]) -> list[Relation]:
        """The tables of these names, with their leaves."""
        wanted = frozenset(names)
        return [each for each in self.relations if each.table in wanted]

    @property
    def touched(self) -> list[Relation]:
        """All that we read or write."""
        return self.of(self.read | self.written)


def keys(subject: TablesSubject) -> Verdict:
    """A row is known by its primary key: on both sides, in the log, in chunks, in the quarantine."""
    needed = [each for each in subject.of(subject.sources | subject.written) if not each.is_leaf]
    without = [each.quoted for each in needed if not each.key]
    deferrable = [each for each in needed if each.deferrable_key]
    if not without and not deferrable:
        return passed(counted(len(needed), "table"))
    problems = [f"{listed(without)} without a primary key"] if without else []
    problems += [
        f"the primary key of {each.quoted} is deferrable and identifies no row in the log" for each in deferrable
    ]
    return failed(
        "; ".join(problems) + ".",
        *([f"Add a primary key to {listed(without)}, or read from there through a Query."] if without else []),
        *[
            f"ALTER TABLE {each.quoted} DROP CONSTRAINT {each.deferrable_key}, "
            f"ADD PRIMARY KEY ({listed(_quoted(name) for name in each.key)});"
            for each in deferrable
        ],
    )


def replica_identity(subject: TablesSubject) -> Verdict:
    """Without it the log does not say which row an UPDATE or DELETE hit; under pgoutput the application's fail."""
    read = [each for each in subject.of(subject.read) if each.kind != "f"]
    bad = [each for each in read if not _identifies(each, key=each.table in subject.sources)]
    if not bad:
        return passed(counted(len(read), "table"))
    return failed(
        f"The log does not identify changed rows of {listed(each.quoted for each in bad)}.",
        *[
            f"ALTER TABLE {each.quoted} REPLICA IDENTITY "
            f"{'DEFAULT' if each.key and not each.deferrable_key else 'FULL'};"
            for each in bad
        ],
    )


def _identifies(relation: Relation, *, key: bool) -> bool:
    """Whether the old row in the log has any column, or, where ``key``, all of the primary key's."""
    primary = [] if relation.deferrable_key else relation.key
    match relation.identity:
        case "f":
            return True
        case "d":
            return bool(primary)
        case "i":
            return bool(relation.index_identity) and (not key or set(primary) <= set(relation.index_identity))
        case _:
            return False


def logged(subject: TablesSubject) -> Verdict:
    """Changes of an unlogged table are in no log, and its rows are gone after a crash."""
    bad = [each.quoted for each in subject.touched if each.persistence == "u"]
    if not bad:
        return passed("all are")
    return failed(f"Unlogged: {listed(bad)}.", *[f"ALTER TABLE {each} SET LOGGED;" for each in bad])


def large_objects(subject: TablesSubject) -> Verdict:
    """The log carries an oid, not the large object that it stands for."""
    bad = [f"{each.quoted} ({listed(each.oid_columns)})" for each in subject.of(subject.read) if each.oid_columns]
    if not bad:
        return passed("none")
    return warned(
        f"Columns of type oid: {listed(bad)}. If they stand for large objects, those stay where they are.",
        "In one database nothing is to be done. Else copy the large objects yourself, or move them to bytea first.",
    )


def inheritance(subject: TablesSubject) -> Verdict:
    """A SELECT on the parent reads the children's rows, but the log names the child, and so does what we write."""
    bad = [each for each in subject.touched if each.children]
    if not bad:
        return passed("no table has children")
    return failed(
        f"Other tables inherit from {listed(each.quoted for each in bad)}.",
        "Make them partitions, or end the inheritance and account for them as tables:",
        *[f"ALTER TABLE {child} NO INHERIT {each.quoted};" for each in bad for child in each.children],
    )


def partitions(subject: TablesSubject) -> Verdict | None:
    """Partitioned tables count as one table; but what happens in a foreign partition is in no log of ours.

    Of one that is detached half-way the log tells, and no query sees its rows.
    """
    roots = [each for each in subject.touched if each.leaves]
    if not roots:
        return None
    if half := [statement for each in subject.touched for statement in each.half_detached]:
        return failed(
            "DETACH PARTITION ... CONCURRENTLY has not ended.",
            "Wait for it; if it was cancelled, end it:",
            *[f"ALTER TABLE {each} FINALIZE;" for each in half],
        )
    foreign = [each for each in subject.touched if each.is_leaf and each.kind == "f"]
    if not foreign:
        return passed(f"{listed(each.table for each in roots)}: {sum(each.leaves for each in roots)} partitions")
    return failed(
        f"Foreign partitions: {listed(each.quoted for each in foreign)}.",
        "Move their rows into a partition of this server, or take them off:",
        *[f"ALTER TABLE {each.parent} DETACH PARTITION {each.quoted};" for each in foreign],
    )


def log_values(subject: TablesSubject) -> Verdict:
    """What the log leaves out must be read from the table for each change; and a key left out cannot be read at all."""
    sources = [each for each in subject.of(subject.sources) if not each.is_leaf]
    generated = [(each, columns) for each in sources if (columns := _not_in_log(each, subject.plugin))]
    detail = listed(f"{each.quoted} ({listed(columns)})" for each, columns in generated)
    if any(set(columns) & set(each.key) for each, columns in generated):
        return failed(
            f"Generated columns that the log leaves out are in a primary key: {detail}.",
            "Let another column be the key, or drop the expression.",
        )
    if generated:
        return warned(
            f"The log leaves generated columns out: {detail}. Each change there is read from the table again.",
            "Drop the expression if that is too slow; under wal2json the stored ones are in the log.",
        )
    blurred = listed(_blurred_numbers(subject)) if subject.plugin == "wal2json" else ""
    note = f"; rows with a null in {blurred} are read again, for wal2json prints NaN and infinity as null"
    return passed(f"complete{note if blurred else ''}")


def _not_in_log(relation: Relation, plugin: Plugin | None) -> list[str]:
    return relation.virtual + (relation.stored if plugin == "pgoutput" else [])


def _blurred_numbers(subject: TablesSubject) -> list[str]:
    return [
        f"{table.declared}.{column.name}"
        for table in subject.tables
        for column in table.columns
        if table.declared in subject.sources and column.kind in ("float", "numeric") and not column.not_null
    ]


def row_security(subject: TablesSubject) -> Verdict:
    """Row level security would hide rows from us without a word; the log knows no such thing."""
    bad = [each.quoted for each in subject.touched if each.filtered]
    if not bad:
        return passed("hides nothing from us")
    return failed(
        f"Row level security filters what {subject.role} sees of {listed(bad)}.",
        f"ALTER ROLE {subject.role} BYPASSRLS;",
    )


def read_privileges(subject: TablesSubject) -> Verdict:
    """Chunks, queries and the verifier read the tables."""
    return _granted(subject, subject.of(subject.read), ("SELECT",))


def write_privileges(subject: TablesSubject) -> Verdict:
    """Rows are written here, now or after a cutover, and sequences set."""
    written = [each for each in subject.of(subject.written) if not each.is_leaf]
    sequences = [name for each in written for name in each.locked_sequences]
    verdict = _granted(subject, written, ("SELECT", "INSERT", "UPDATE", "DELETE"))
    if not sequences:
        return verdict
    remedy = f"GRANT SELECT, UPDATE ON SEQUENCE {listed(sequences)} TO {subject.role};"
    detail = f"The role {subject.role} may not set {listed(sequences)}."
    return failed(detail, remedy) if verdict.outcome == "pass" else failed(
        f"{verdict.detail} {detail}", verdict.remedy, remedy
    )  # fmt: skip


def _granted(subject: TablesSubject, relations: list[Relation], wanted: tuple[str, ...]) -> Verdict:
    roots = [each for each in relations if not each.is_leaf]
    lacking = {name: [each.quoted for each in roots if name in each.lacking] for name in wanted}
    lacking = {name: tables for name, tables in lacking.items() if tables}
    if not lacking:
        return passed(f"{listed(wanted)} on {counted(len(roots), 'table')}")
    problems = (f"{name} on {listed(tables)}" for name, tables in lacking.items())
    return failed(
        f"The role {subject.role} lacks {'; '.join(problems)}.",
        *[f"GRANT {name} ON {listed(tables)} TO {subject.role};" for name, tables in lacking.items()],
    )


def ownership(subject: TablesSubject) -> Verdict:
    """Publications, guard triggers and their switching, indexes and constraints are the owner's to make."""
    relations = subject.of(subject.read | subject.written | subject.retired)
    strangers = [each for each in relations if not each.owned]
    if not strangers:
        return passed(f"{subject.role} acts as the owner")
    owners = {each.table: each.owner for each in relations if not each.is_leaf}
    # Who makes a partition owns it, though it should have had its table's owner: no reason to act for that role too.
    # And to act for a superuser would make one of the daemon.
    given = {each.quoted: owners[each.table] for each in strangers if owners.get(each.table) not in (each.owner, None)}
    given |= {each.quoted: subject.role for each in strangers if each.of_superuser and each.quoted not in given}
    acting = dict.fromkeys(each.owner for each in strangers if each.quoted not in given)
    return failed(
        f"The role {subject.role} does not own {listed(each.quoted for each in strangers)}.",
        *(["Let it act for the owner:"] if acting else []),
        *[f"GRANT {owner} TO {subject.role};" for owner in acting],
        *(["Give them an owner that it acts for:"] if given else []),
        *[f"ALTER TABLE {table} OWNER TO {owner};" for table, owner in given.items()],
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
