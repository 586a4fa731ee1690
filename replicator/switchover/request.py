"""What a switchover is to do, and the connections of one attempt at it: all that its strategy gets to see."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from replicator.core.epochs import LeaseEpoch, OwnershipEpoch
from replicator.core.tables import Name
from replicator.mapping.plan import Plan
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.control.control import Owner
from replicator.postgres.control.ownership import all_names
from replicator.postgres.session.connect import Connection
from replicator.settings import Settings
from replicator.switchover.phases import Transition

Report = Callable[[str], Awaitable[None]]
"""Tells whoever has asked for a switchover, or for another long work, which step it is at."""


@dataclass(frozen=True, kw_only=True)
class SwitchoverRequest:
    """One switchover: ownership moves from the source of a pipeline to its target."""

    settings: Settings
    move: Transition
    pipeline: Pipeline
    """It is active before, and is drained."""
    opposite: Pipeline
    """Of the other direction: the way back."""
    tables: Mapping[Owner, list[Name]]
    """All tables of either schema that take part."""
    lease_epoch: LeaseEpoch
    """On the source: a daemon that has lost it moves nothing."""
    report: Report
    on_commit: Callable[[], None]
    """Is called just before the commit is sent; what it raises gives the switchover up."""
    dry_run: bool = False
    """Go through every step, then roll back."""
    search_path_of: str | None = None
    """A role whose ``search_path`` moves too."""

    @property
    def plan(self) -> Plan:
        """Of the pipeline that is active before."""
        return self.pipeline.context.plan

    @property
    def held(self) -> list[Name]:
        """The tables whose writers wait: those that close, and those that are followed until now."""
        closing = self.tables[self.move.held]
        if self.pipeline.direction == "reverse":
            return closing
        migration = self.plan.migration
        return [*closing, *all_names(table for name, table in self.plan.watched.items() if name in migration.left)]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt: one transaction on the source, and what looks on beside it."""

    request: SwitchoverRequest
    holder: Connection
    """Its transaction holds the writers, and moves ownership."""
    target: Connection
    observer: Connection
    """To the source: it sees who is in the way of the holder."""
    epoch: OwnershipEpoch
    """Of the ownership that is to come."""
    together: bool
    """Source and target are one database."""
    lock_seconds: float
    """How long it may queue for a lock: every writer queues behind it."""
    at: Callable[[str], None]
    """Notes the step: it is named when it takes too long, and in the journal when it fails."""

    @property
    def hold_seconds(self) -> float:
        """How long the writers' lock may take, and whatever is locked as strongly: the pause may be shorter."""
        return min(self.lock_seconds, self.request.settings.max_write_pause)
