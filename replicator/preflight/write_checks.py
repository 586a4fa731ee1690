"""Facts about the tables that we write to: what acts on our writes, who writes beside us; and the list of all."""

from collections.abc import Mapping

from replicator.core.tables import Name
from replicator.preflight.facts import Consequence, Fact
from replicator.preflight.finding import Check, Verdict, failed, listed, passed, warned
from replicator.preflight.table_checks import (
    TablesSubject,
    inheritance,
    keys,
    large_objects,
    log_values,
    logged,
    ownership,
    partitions,
    read_privileges,
    replica_identity,
    row_security,
    write_privileges,
)


def rules(subject: TablesSubject) -> Verdict:
    """A rule rewrites what we write; and with one, switched off or on, Postgres refuses INSERT ... ON CONFLICT."""
    found = [(name, each.quoted) for each in subject.of(subject.written) for name in each.rules]
    if not found:
        return passed("none on what we write")
    return failed(
        f"Rules are on tables that we write: {listed(f'{name} on {table}' for name, table in found)}.",
        "Drop them until the migration is over; a trigger can do what they did:",
        *[f"DROP RULE {name} ON {table};" for name, table in found],
    )


def subscriptions(subject: TablesSubject) -> Verdict:
    """A subscription writes past guards and triggers; after the cutover, into tables that nobody may write to."""
    found = [(each.quoted, each.subscriptions) for each in subject.of(subject.read | subject.written | subject.retired)]
    found = [(table, names) for table, names in found if names]
    if not found:
        return passed("none writes here")
    names = dict.fromkeys(name for _, several in found for name in several)
    return failed(
        f"Subscriptions write to {listed(f'{table} ({listed(several)})' for table, several in found)}.",
        "Take the tables out of the publication and refresh the subscription, or drop it, and its slot on the other "
        "server; one that is only disabled can be resumed at any time.",
        *[f"ALTER SUBSCRIPTION {name} {change};" for name in names for change in ("DISABLE", "SET (slot_name = NONE)")],
        *[f"DROP SUBSCRIPTION {name};" for name in names],
    )


def guards(subject: TablesSubject) -> Verdict:
    """Our triggers are made and dropped by their names: one of somebody else's would be replaced, and go in the end."""
    found = [(name, each.quoted) for each in subject.of(subject.read | subject.written | subject.retired)
             for name in each.taken]  # fmt: skip
    if not found:
        return passed("no other trigger bears the name of one of ours")
    return failed(
        f"Triggers bear the names of ours: {listed(f'{name} on {table}' for name, table in found)}.",
        "Give them other names:",
        *[f"ALTER TRIGGER {name} ON {table} RENAME TO {name}_of_yours;" for name, table in found],
    )


def triggers(subject: TablesSubject) -> Verdict:
    """A trigger of the application's would act on our writes too: so it rests on what we write, while we do."""
    written = subject.of(subject.written)
    found = [f"{name} on {each.quoted}" for each in written for name in each.triggers]
    if not found:
        return passed("none is on what we write")
    return warned(
        f"Triggers are switched off on tables while only we write there: {listed(found)}. They are given back with the "
        "tables.",
        "Nothing, if all that they do follows from what the application has written. What they put into the row itself "
        "the transforms, or a generated column, must supply.",
    )


def cascades(subject: TablesSubject) -> Verdict:
    """A foreign key that deletes or changes child rows by itself does on our side what the other side may not have."""
    found = [
        f"{each.name} of {table.name} (to {each.parent})"
        for table in subject.tables
        for each in table.foreign_keys
        if table.declared in subject.written and each.acts
    ]
    if not found:
        return passed("no foreign key acts on what we write")
    return warned(
        f"Foreign keys act when a parent row goes: {listed(found)}. A parent is deleted last; while the other side "
        "still has child rows of it, its deletion is quarantined, so nothing is lost.",
        "Let the transforms return no row for a child whose parent they drop.",
    )


def circles(subject: TablesSubject) -> Verdict:
    """Rows that refer to each other at once can be written only if one does so later: by a NULL, or at the end."""
    stiff = {
        table.name: {
            each.parent: f"{each.name} of {table.name}"
            for each in table.foreign_keys
            if not each.deferrable and not each.detachable and each.parent != table.name
        }
        for table in subject.tables
        if table.declared in subject.written
    }
    found = [
        name for table, parents in stiff.items() for parent, name in parents.items() if _leads(stiff, parent, table)
    ]
    if not found:
        return passed("no foreign keys hold each other up")
    return failed(
        f"Tables refer to each other by foreign keys that can neither wait nor be NULL: {listed(found)}.",
        "Let one of them wait, by ALTER TABLE ... ALTER CONSTRAINT ... DEFERRABLE, or let its column be NULL.",
    )


def _leads(edges: Mapping[Name, Mapping[Name, str]], start: Name, end: Name) -> bool:
    seen: set[Name] = set()
    waiting = [start]
    while waiting:
        each = waiting.pop()
        if each == end:
            return True
        if each not in seen:
            seen.add(each)
            waiting += edges.get(each, {})
    return False


def too_early(subject: TablesSubject) -> Verdict:
    """While rows are copied, one may come before its parent, or hold a value that another still has: a clash."""
    written = {table.name: table for table in subject.tables if table.declared in subject.written}
    parents = [
        f"{each.name} of {table.name}" for table in written.values() for each in table.foreign_keys
        if each.parent in written
    ]  # fmt: skip
    uniques = [f"{name} of {each.quoted}" for each in subject.of(subject.written) for name in each.uniques]
    remedy = (
        "Make them in sql/new/*_constraints.sql and *_indexes.sql, not in *_tables.sql. Those that are there already: "
        "drop them, or the new tables, which the daemon makes again."
    )
    if parents:
        both = listed([*parents, *uniques])
        return failed(f"New tables have foreign keys or unique indexes before the backfill: {both}.", remedy)
    if uniques:
        return warned(f"New tables have unique indexes before the backfill: {listed(uniques)}.", remedy)
    return passed("no foreign key between new tables and no unique index yet")


FACTS: tuple[Fact[TablesSubject], ...] = (
    Fact(keys, Consequence.SHUT),
    Fact(replica_identity, Consequence.SHUT),
    Fact(logged, Consequence.SHUT),
    Fact(large_objects, Consequence.TELL),
    Fact(inheritance, Consequence.SHUT),
    Fact(partitions, Consequence.SHUT),
    Fact(log_values, Consequence.SHUT),
    Fact(row_security, Consequence.SHUT),
    Fact(read_privileges, Consequence.SHUT),
    Fact(write_privileges, Consequence.SHUT),
    Fact(ownership, Consequence.SHUT),
    Fact(triggers, Consequence.TELL),
    Fact(guards, Consequence.SHUT),
    Fact(rules, Consequence.SHUT),
    Fact(subscriptions, Consequence.SHUT),
    Fact(cascades, Consequence.TELL),
    Fact(circles, Consequence.SHUT),
)
"""Of the tables of either side, at every time."""

BEFORE_START: tuple[Check[TablesSubject], ...] = (too_early,)
"""Of the new tables, while the daemon has not run yet: what is there later was made in its time, and is no fact."""
