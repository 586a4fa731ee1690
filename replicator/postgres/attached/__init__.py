"""All that belongs to a table, as values with the DDL that puts each on another table.

    old = (await attached(connection, "public", ["orders"]))["orders"]
    new = (await attached(connection, "shop", ["orders"]))["orders"]
    for each in lacking(old, new):
        print(each, each.sql(Name(schema="shop", table="orders")))

``attached`` reads the catalogue in one query for each family of objects, however many tables there are. Each
``Attached`` has a ``kind``, a ``name``, and its statements, in which the table's name is a parameter. ``lacking``
compares the lists of two tables modulo the names of the tables, and of constraints, indexes, triggers, policies, rules
and statistics. What Postgres makes for a partition because its parent has it is not listed; ``read_partitions`` reads
the partitions themselves. Objects of the replicator (its guards, its publications) are left out, and a trigger that
rests while only the daemon writes to its table has the state that it will be given back.

Not read: security labels, the options of foreign tables, names of NOT NULL constraints.
"""

from replicator.postgres.attached.item import (
    Attached,
    Beside,
    Kind,
    Other,
    Own,
    Piece,
    Text,
    lacking,
    rendered,
)
from replicator.postgres.attached.partitions import Partition, read_partitions
from replicator.postgres.attached.reader import attached

__all__ = [
    "Attached",
    "Beside",
    "Kind",
    "Other",
    "Own",
    "Partition",
    "Piece",
    "Text",
    "attached",
    "lacking",
    "read_partitions",
    "rendered",
]
