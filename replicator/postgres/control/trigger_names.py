"""The names of the triggers that this program puts on tables, by which it tells them from the application's."""

from typing import Final

GUARD: Final = "replicator_guard"
"""On every table of a tree: it refuses a statement that names the table, and TRUNCATE."""
GUARD_ROWS: Final = "replicator_guard_rows"
"""On the root, from where Postgres clones it to the partitions, later ones too. A subscription fires no other."""

NOTES: Final = ("replicator_deleted", "replicator_moved", "replicator_emptied")
"""The triggers that note what the application deletes."""
EMPTIED: Final = NOTES[-1]
