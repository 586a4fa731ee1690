"""When the application last changed what a source key gives: who wrote last wins, while both schemas take writes."""

from datetime import datetime

from replicator.core.tables import Key


class Dates:
    """The commit times of the application's changes. A key without one was changed by the opposite pipeline only."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[Key, datetime]] = {}
        self.whole: dict[str, datetime] = {}

    def note(self, source: str, key: Key, at: datetime | None) -> None:
        """Note a change of one key; None: it was none of the application's."""
        if at is not None:
            keys = self.keys.setdefault(source, {})
            keys[key] = max(at, keys.get(key, at))

    def note_all(self, source: str, at: datetime | None) -> None:
        """Note a change that every key of a source hangs on."""
        if at is not None:
            self.whole[source] = max(at, self.whole.get(source, at))

    def update(self, other: "Dates") -> None:
        """Take in what another batch has noted."""
        for source, keys in other.keys.items():
            for key, at in keys.items():
                self.note(source, key, at)
        for source, at in other.whole.items():
            self.note_all(source, at)

    def of(self, source: str, key: Key) -> datetime | None:
        """The newest change that concerns a key."""
        one, every = self.keys.get(source, {}).get(key), self.whole.get(source)
        return max(one, every) if one and every else one or every

    def of_all(self, source: str) -> datetime | None:
        """The newest change that concerned every key."""
        return self.whole.get(source)
