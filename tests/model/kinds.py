"""The kinds of transform, as far as they differ in what can go wrong."""

from enum import Enum


class Kind(Enum):
    """How a source row becomes target rows, and what the stream brings of it."""

    TABLE = "a table, key computed"
    QUERY = "a query, key computed"
    TAGS = "a table, key remembered"
    QUERY_TAGS = "a query, key remembered"

    @property
    def reads(self) -> bool:
        """The applier reads the source again, and so may be ahead of the stream."""
        return self in (Kind.QUERY, Kind.QUERY_TAGS)

    @property
    def remembers(self) -> bool:
        """The target's key is not told by the source's: only what is remembered can be deleted."""
        return self in (Kind.TAGS, Kind.QUERY_TAGS)
