"""Reads the old tables that are copied, has the new ones drafted, and composes their files."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from replicator.core.copies import Copy
from replicator.errors import MigrationError, NotReadyError
from replicator.migration import Migration
from replicator.postgres.attached import attached, read_partitions
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.ddl import made_tables, statements
from replicator.postgres.drafts import Draft, Original, Remark, draft
from replicator.postgres.drafts.naming import of_another
from replicator.postgres.drafts.remarks import second_source
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.session.server import fetch_plain
from replicator.runbook.generation.files import File, file_names, sealed, was_generated
from replicator.runbook.generation.table_files import Parts, Schema
from replicator.settings import Settings

USERS: Final = """
    SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS role
    FROM pg_namespace n CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
    WHERE n.nspname = %(schema)s AND x.privilege_type = 'USAGE' AND x.grantee <> n.nspowner
      AND (x.grantee = 0 OR pg_get_userbyid(x.grantee) <> current_user) ORDER BY 1
"""

TABLES: Final = "new/10_{}_tables.sql"
PARTS: Final = (
    (TABLES, Parts.tables),
    ("new/20_{}_indexes.sql", Parts.indexes),
    ("new/30_{}_constraints.sql", Parts.constraints),
    ("cutover/50_{}.sql", Parts.cutover),
    ("rollback/50_{}.sql", Parts.rollback),
)
"""The files of a table, and what is in each. One without a statement is not written."""

WIDTH: Final = 115
"""Of the text in a comment."""

CUTOVER: Final = (
    "-- To tables that stay as they are. Until the cutover such a key would fail the application's statements there;\n"
    "-- with --strategy rename the new table is in the old schema by now. Rows are looked at after the cutover.\n\n"
)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What is to be written, and what the author must look at, by new table."""

    files: list[File] = field(default_factory=list)
    remarks: Mapping[str, Sequence[Remark]] = field(default_factory=dict)
    yours: tuple[str, ...] = ()
    """New tables that the author's own files make: nothing is generated for these."""


async def generate(settings: Settings, migration: Migration) -> Generated:
    """The files of all copies. Writes nothing.

    :raises MigrationError: there is no copy, or a table of one is not there, or Postgres refuses its new columns.
    :raises NotReadyError: a cutover has renamed the tables.
    """
    if not migration.copies:
        raise MigrationError(
            f"The migration {migration.name} copies no table, so there is nothing to generate.",
            'Declare a copy: migration.copy("orders", into="orders", cast={"id": "bigint"}).',
        )
    words = file_names(each.into for each in migration.copies)
    own, made = _authored(migration, {TABLES.format(each) for each in words.values()})
    copies = {each.into: each for each in reversed(migration.copies) if (migration.new, each.into) not in made}
    first = [copies[name] for name in dict.fromkeys(each.into for each in migration.copies) if name in copies]
    async with connection(settings.source, "schema") as source:
        originals = await _originals(source, migration, first)
        users = [each["role"] for each in await fetch_plain(source, USERS, schema=migration.old)]
    schema = Schema(old=migration.old, new=migration.new, users=users)
    async with connection(settings.target, "schema") as target:
        drafts, quote = await draft(target, migration.old, migration.new, originals, own)
        version = target.info.server_version
    files = []
    for each in drafts:
        others = [one for one in migration.copies if one.into == each.copy.into and one is not each.copy]
        each.remarks += [second_source(one, each.copy) for one in others]
        files += list(_files(each, Parts(each, schema, quote, version), words[each.copy.into], schema))
    return Generated(
        files=files,
        remarks={each.copy.into: each.remarks for each in drafts},
        yours=tuple(sorted(each.into for each in migration.copies if (migration.new, each.into) in made)),
    )


def _authored(migration: Migration, generated: set[str]) -> tuple[list[str], set[tuple[str, str]]]:
    """The author's own statements for tables, and the tables that they make.

    :param generated: paths of files that are generated; one of these is the author's if he has written it himself.
    """
    own: list[str] = []
    for file in sorted((migration.folder() / "new").glob("*_tables.sql")):
        if f"new/{file.name}" not in generated or not was_generated(file.read_text(encoding="utf-8")):
            own += statements(file)
    return own, made_tables(own)


async def _originals(source: Connection, migration: Migration, copies: Sequence[Copy]) -> list[Original]:
    if (await read_places(source)).moved:
        raise NotReadyError(
            "A cutover has renamed the tables: the old ones are not what the new ones are to be like.",
            "Generate before the first start, or after a rollback.",
        )
    names = [each.source for each in copies]
    found = await attached(source, migration.old, names)
    partitions = await read_partitions(source, migration.old, names)
    if lacking := [each for each in names if each not in found]:
        raise MigrationError(
            f"There is no table {', '.join(f'{migration.old}.{each}' for each in lacking)}, and a copy names it.",
            "Mend source= of the copy, or old= of the migration.",
        )
    return [
        Original(
            copy=each,
            items=of_another(found[each.source], each) if each.source in names[:place] else found[each.source],
            partitions=partitions[each.source],
        )
        for place, each in enumerate(copies)
    ]


def _files(each: Draft, parts: Parts, word: str, schema: Schema) -> Iterator[File]:
    for path, compose in PARTS:
        found = compose(parts)
        if not found:
            continue
        called = f"{schema.new}.{each.copy.into}, like {schema.old}.{each.copy.source}"
        opening = f"-- {' '.join(called.split())}.\n\n"  # on one line, whatever is in a name
        if compose is Parts.tables:
            opening += _remarks(each.remarks)
        elif compose is Parts.cutover:
            opening += CUTOVER
        yield sealed(path.format(word), opening + "\n".join(found) + "\n")


def _remarks(remarks: Sequence[Remark]) -> str:
    """As comments: what must be decided stands where it is read."""
    if not remarks:
        return ""
    lines = ["-- NOT QUITE LIKE IT. Look at each of these:"]
    for each in remarks:
        said = textwrap.wrap(f"{each.what}: {each.why}. {each.remedy}", WIDTH, break_long_words=False)
        lines += ["--", *(f"-- {line}" for line in said)]
        lines += [f"--     {line}" for line in each.sql.splitlines()]
    return "\n".join([*lines, "", ""])
