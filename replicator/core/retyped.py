"""Columns that show otherwise once a table of the same name takes the old one's place, as prepared statements see."""

from collections.abc import Mapping
from typing import Final

from replicator.core.tables import Table

PREPARED: Final = (
    "With --strategy rename, a statement prepared before that returns one of these fails with `cached plan must not "
    "change result type` (0A000), until its session prepares it anew: by DEALLOCATE, or by connecting anew"
)


def retyped(old: Mapping[str, Table], new: Mapping[str, Table]) -> list[str]:
    """What changes in the columns of tables that both schemas have: ``people.id: integer, then bigint``.

    A modifier counts too, as in ``varchar(10)``. Columns that only one side has change what ``SELECT *`` returns.
    """
    found = []
    for name in sorted(old.keys() & new.keys()):
        before, after = old[name].by_name, new[name].by_name
        for column in before.keys() | after.keys():
            was = before[column].type if column in before else "not there"
            now = after[column].type if column in after else "not there"
            if was != now:
                found.append(f"{name}.{column}: {was}, then {now}")
    return sorted(found)
