"""What is said of things that are not carried over, or need the author's eye."""

from collections.abc import Sequence
from typing import Final

from replicator.core.copies import Copy
from replicator.postgres.attached import Attached
from replicator.postgres.drafts.model import Remark

NOT_CARRIED: Final = {
    "rule": (
        "a rule rewrites what the replicator writes, and Postgres refuses INSERT ... ON CONFLICT on a table with one",
        "Make it after the migration, or let a trigger do it.",
    ),
    "publication": (
        "a publication would carry the rows while the replicator copies them",
        "Put this into sql/cutover, what undoes it into sql/rollback; --strategy rename has moved the table by then.",
    ),
}
NOT_VALID: Final = (
    "it is NOT VALID on the old table, so rows may be there that do not keep it: these would be quarantined",
    "Validate it on the old table, and generate anew; or make it after the migration.",
)


def not_carried(item: Attached, sql: str) -> Remark | None:
    """What to say of an item that is never carried over; None for all others."""
    why = NOT_CARRIED.get(item.kind) or (None if item.valid else NOT_VALID)
    return Remark(what=str(item), why=why[0], remedy=why[1], sql=sql) if why else None


def went_along(item: Attached, copy: Copy, sql: str) -> Remark:
    """Of something that went with a column that is dropped."""
    remedy = "Write another one, if the new table needs it."
    if item.kind == "primary key":
        remedy = "The new table needs another primary key: write one into CREATE TABLE."
    return Remark(
        what=str(item), why=f"it needs a column that is dropped ({', '.join(copy.drop)})", remedy=remedy, sql=sql
    )


def wider(key: Attached, lacking: Sequence[str]) -> Remark:
    """Of a primary key that has more columns than the old one."""
    return Remark(
        what=str(key),
        why=f"a primary key of a partitioned table has the columns of its partitions: {', '.join(lacking)} is added, "
        f"so {', '.join(key.columns)} alone is no longer unique, and no foreign key can lead to it",
        remedy=f"See that {', '.join(lacking)} is never NULL, and that nothing else makes the same "
        f"{', '.join(key.columns)} twice.",
    )


def not_unique(item: Attached, lacking: Sequence[str], sql: str) -> Remark:
    """Of a unique constraint or index that a partitioned table cannot have."""
    return Remark(
        what=str(item),
        why=f"of a partitioned table it needs the columns of its partitions, too: {', '.join(lacking)}",
        remedy="Decide whether it may be unique for each of these only: then add them; else do without, or leave the "
        "table whole.",
        sql=sql,
    )


def uses_old(item: Attached, names: Sequence[str]) -> Remark:
    """Of something that is carried over, and goes on using what belongs to an old table."""
    return Remark(
        what=str(item),
        why=f"it goes on using {', '.join(names)}, which belongs to an old table. It is carried over, and keeps "
        "`replicator cleanup` from dropping that",
        remedy="Name in its place what the new schema has, if that is what is meant.",
    )


def names_tables(trigger: Attached, tables: Sequence[str]) -> Remark:
    """Of a trigger whose function has the names of old tables in its text. It is carried over."""
    named = ", ".join(tables)
    return Remark(
        what=str(trigger),
        why=f"its function {trigger.function} names {named} in its text. The trigger is carried over, and its function "
        "goes on using what has that name",
        remedy="With --strategy rename that is the new table from the cutover on. Without it, write a function for the "
        "new tables, and let the trigger call that.",
    )


def second_source(copy: Copy, first: Copy) -> Remark:
    """Of a table that several copies fill."""
    return Remark(
        what=f"copy of {copy.source}",
        why=f"{copy.into} is made like {first.source}, which is copied into it, too",
        remedy=f"See that {copy.into} has a place for what comes from {copy.source}.",
    )


def no_key(copy: Copy) -> Remark:
    """Of a table that is partitioned by an expression."""
    return Remark(
        what="primary key",
        why=f"Postgres admits none where an expression is in PARTITION BY ({copy.partition_by}), and the replicator "
        "writes to no table without one",
        remedy="Partition by columns; a generated column cannot be one of them, an added one can.",
    )
