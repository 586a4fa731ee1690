"""What the daemon has reported, how far that can be believed, and what the servers say themselves."""

from dataclasses import dataclass
from typing import cast

from replicator.observe.status import StatusDocument
from replicator.postgres.control.control import STALE_SECONDS

READY_SECONDS = 5.0
"""From that age on, nothing is called ready: there is a report a second."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What the servers say of the stream at this moment, whatever the daemon has reported."""

    slot: str
    active: bool
    """Whether somebody reads it."""
    retained_bytes: int | None = None
    lag_bytes: int | None = None
    """From what is stored as applied to the end of the log: never less than the lag is."""
    applied_seconds: float | None = None
    """How long ago that was stored."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a look at the control tables gives. ``document`` is None when no daemon has ever reported."""

    document: StatusDocument | None
    age_seconds: float | None
    alive: bool
    live: Stream | None = None

    @property
    def fresh(self) -> bool:
        """Whether the daemon's report can be of now."""
        return self.alive and (self.age_seconds or 0.0) <= STALE_SECONDS

    @property
    def young(self) -> bool:
        """Whether it is of the last seconds: nothing older is called ready, or said to be the lag."""
        return self.fresh and (self.age_seconds or 0.0) <= READY_SECONDS

    @property
    def unread(self) -> str | None:
        """The slot that nobody reads, if so: the daemon may not have noticed that yet."""
        return self.live.slot if self.live is not None and not self.live.active else None

    @property
    def ready(self) -> bool:
        """Whether the cutover may happen now, as far as that can be known."""
        return bool(self.document and self.document["ready"]) and self.young and self.unread is None


def as_of_now(report: Report) -> StatusDocument | None:
    """The document with what the servers know better."""
    document, live = report.document, report.live
    if document is None or document["phase"] == "finalized" or (report.young and live is None):
        return document
    document = cast("StatusDocument", {**document, "ready": report.ready})
    if not report.young:
        document["way_back"] = {"state": "not known", "detail": f"last known: {document['way_back']['state']}"}
    if live is not None and live.retained_bytes is not None:
        document["slot_retained_bytes"] = live.retained_bytes
    if not report.young:
        document["lag_bytes"] = live.lag_bytes if live else None
        document["lag_seconds"] = live.applied_seconds if live else None
    return document
