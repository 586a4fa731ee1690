"""Sources of transforms that join several tables, and what makes their rows change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from replicator.core.selects import is_file


class _All(Enum):
    ALL = "ALL"


ALL: Final = _All.ALL
"""In ``depends_on``: any change to that table makes every row of the query dirty."""


@dataclass(frozen=True)
class Lookup:
    """In ``depends_on``: SQL that gives the source keys which a changed row concerns.

    Its parameters (``%(column)s``) are columns of the changed row; it runs with the row as it was and as it is. Where
    the log does not carry how it was (give the table REPLICA IDENTITY FULL, and it does), every key is read again.
    """

    sql: str


DependsOn = Mapping[str, Sequence[str] | _All | Lookup]


@dataclass(frozen=True)
class Query:
    """A source that joins several tables: one result row per source key.

    :param sql: a file under the migration's ``sql/`` (``event.sql``), or the text of a SELECT.
    :param key: the result columns that are the source key.
    :param depends_on: for each table that the query reads, how a changed row of it leads to source keys: the table's
        columns that are the source key, in its order; ``ALL``; or a ``Lookup``.
    :param copied: the only table that it reads, row by row, for a copy: its primary key takes the place of the others.
    """

    sql: str
    key: Sequence[str]
    depends_on: DependsOn
    copied: str = field(default="", kw_only=True)

    @property
    def name(self) -> str:
        """How messages and metrics call this source."""
        if self.copied:
            return f"cast of {self.copied}"
        return self.sql.removesuffix(".sql") if self.is_file else "query"

    @property
    def is_file(self) -> bool:
        """Whether ``sql`` names a file."""
        return is_file(self.sql)
