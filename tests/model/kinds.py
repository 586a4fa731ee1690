"""The kinds of transform, as far as they differ in what can go wrong."""

from enum import Enum
from typing import Final


class Kind(Enum):
    """How a source row becomes target rows, and what the stream brings of it."""

    TABLE = "a table, key computed"
    QUERY = "a query, key computed"
    TAGS = "a table, key remembered"
    QUERY_TAGS = "a query, key remembered"
    PART_TAGS = "a table of which the log has a part, key remembered"

    @property
    def reads(self) -> bool:
        """The applier reads the source again, and so may be ahead of the stream."""
        return self in (Kind.QUERY, Kind.QUERY_TAGS, Kind.PART_TAGS)

    @property
    def remembers(self) -> bool:
        """The target's key is not told by the source's: only what is remembered can be deleted."""
        return self in (Kind.TAGS, Kind.QUERY_TAGS, Kind.PART_TAGS)

    def reads_again(self, *, gone: bool) -> bool:
        """Whether the applier reads a changed row again; ``gone``: of a table, the log tells that it has gone."""
        return self.reads and not (gone and self is Kind.PART_TAGS)


LOGGED_OR_READ: Final = (Kind.TABLE, Kind.QUERY, Kind.TAGS, Kind.QUERY_TAGS)
"""Those of which every change is taken from the log, or every one read again."""
