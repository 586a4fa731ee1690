"""The moves into the time when both schemas take writes, and out of it; and what it needs."""

from collections.abc import Iterable, Mapping

from replicator.core.tables import Name
from replicator.errors import CheckError, NotReadyError
from replicator.mapping.plan import Plan
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.catalog.edges import read_edges
from replicator.postgres.control.control import Owner
from replicator.postgres.control.ownership import all_names, clock, write_ownership
from replicator.postgres.locking.locks import WRITERS, in_turns, lock_tables
from replicator.postgres.locking.trees import oids_of
from replicator.postgres.rows.conflict_policy import LastWriteWins
from replicator.postgres.rows.sequences import set_sequences
from replicator.postgres.rows.versions import foreign_triggers, note_deletions
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.wire.origins import lacking, tracks_commits
from replicator.runtime.failpoints import Failpoint, reach
from replicator.settings import Settings
from replicator.switchover.bidirectional import Bidirectional
from replicator.switchover.request import Attempt, Report, SwitchoverRequest
from replicator.switchover.strategy import SwitchoverStrategy
from replicator.switchover.transfer import open_tables, start_marker
from replicator.verify import Divergence

SEQUENCE_MARGIN = 1_000_000
"""Both sides hand out numbers now: so many are left to the old one before it meets those of the new one."""
LOCK_SECONDS = 0.5
TRIES = 30
CLOCKS_APART = 0.5
"""Seconds. Who wrote last is told by two clocks, if there are two servers."""


async def check_rolling(settings: Settings, tables: Mapping[Owner, list[Name]], plans: Iterable[Plan] = ()) -> None:
    """Raise CheckError unless both servers can tell who wrote a row last, and let us mark what we write.

    :param plans: both directions'. Raises CheckError too when rows of theirs would be lost sight of.
    """
    _check_keys(plans)
    for side, dsn in (("old", settings.source), ("new", settings.target)):
        async with connection(dsn, "check") as asking:
            await _check_server(asking, side)
            written = tables["old"] if side == "old" else tables["new"]
            found = await foreign_triggers(asking, written)
            edges = await read_edges(asking, await oids_of(asking, written))
        if edges:
            raise CheckError(
                f"Foreign keys join tables of the {side} schema with others: {', '.join(map(str, edges))}.",
                "While both schemas take writes, statements would fail at rows that have not come over yet. Drop them "
                "for that time, or do not cut over rolling.",
            )
        if found:
            raise CheckError(
                f"Triggers act on rows that are written from both sides: {', '.join(found)}.",
                "What they do for our writes would not reach the other schema: drop them, or do not cut over rolling.",
            )
    async with connection(settings.source, "check") as old, connection(settings.target, "check") as new:
        before = await clock(old)
        apart = ((await clock(new)) - before).total_seconds()
        slack = ((await clock(old)) - before).total_seconds()
    if not -CLOCKS_APART < apart < CLOCKS_APART + slack:
        raise CheckError(
            f"The clocks of the two servers are {abs(apart):.1f} seconds apart.", "Let NTP set both, then try again."
        )


def _check_keys(plans: Iterable[Plan]) -> None:
    """A query is read as it is now: what it gave when the opposite pipeline had written, and no more, nobody knows."""
    found = sorted(
        each.name
        for plan in plans
        for each in plan.transforms
        if plan.sources[each.source].table is None and (each.key is None or len(plan.writers_of(each.target.name)) > 1)
    )
    if found:
        raise CheckError(
            f"Rows that these transforms gave might be left behind while both sides write: {', '.join(found)}.",
            "A transform that reads a query needs a key=, and a target table to itself; or do not cut over rolling.",
        )


async def _check_server(asking: Connection, side: str) -> None:
    if not await tracks_commits(asking):
        raise CheckError(
            f"track_commit_timestamp is off on the {side} schema's server: who wrote a row last cannot be told.",
            "ALTER SYSTEM SET track_commit_timestamp = on; and restart that server.",
        )
    missing, role = await lacking(asking)
    if missing:
        raise CheckError(
            f"The role {role} must not use replication origins on the {side} schema's server.",
            " ".join(f"GRANT EXECUTE ON FUNCTION {each} TO {role};" for each in missing),
        )


class OpeningStrategy(SwitchoverStrategy):
    """Into it: the old writers are held for the moment in which the new tables are opened too."""

    def __init__(self, both: Bidirectional) -> None:
        self._both = both

    async def checked(self, attempt: Attempt) -> None:
        """The pipeline writes under its origin from now on: the application's rows must be told from its own."""
        pipeline = attempt.request.pipeline
        if not pipeline.context.policy.both_write:
            await self._both.roll(pipeline, await clock(attempt.target))

    async def move(self, attempt: Attempt) -> None:
        """Nothing is closed, so nothing is guarded. Raises NotReadyError or LockedOutError."""
        request, holder = attempt.request, attempt.holder
        opposite = request.opposite.context
        attempt.at("sequences")
        await set_sequences(attempt.target, request.plan.targets, SEQUENCE_MARGIN)
        attempt.at("triggers")
        await note_deletions(holder, opposite.plan.targets, request.plan.watched.values())
        if attempt.together:
            await open_tables(attempt, request.tables["new"])
        await reach(Failpoint.CUTOVER_GUARDED)
        if isinstance(opposite.policy, LastWriteWins):
            opposite.policy.since = await clock(holder)
        attempt.at("state row")
        await write_ownership(holder, "old", attempt.epoch, start_marker(attempt), rolling=True)


class EndingStrategy(SwitchoverStrategy):
    """Out of it, either way: the writers of one side are held, and refused from then on."""

    def __init__(self, both: Bidirectional) -> None:
        self._both = both

    async def diverging(self, request: SwitchoverRequest) -> list[Divergence]:
        """What differs, save for what the other side has written last: that is right there."""
        return await self._both.final_check(request.pipeline.direction)

    async def checked(self, attempt: Attempt) -> None:  # noqa: ARG002  # it is of no single attempt
        """Raise NotReadyError when either pipeline keeps a row in quarantine: both end here."""
        if any(each.context.quarantined for each in self._both.pipelines.values()):
            raise NotReadyError("A row went into quarantine; the writers went on.", "See `replicator status`.")


async def prepare_new_side(settings: Settings, forward: Pipeline, reverse: Pipeline, report: Report) -> None:
    """Have what the application will delete in the new tables noted; nobody writes them but us.

    Raises RetryableError, with who is in the way.
    """
    written, read = forward.context.plan.targets, reverse.context.plan.watched.values()
    tables = list(dict.fromkeys(all_names([*written, *read])))
    async with connection(settings.target, "triggers") as target, connection(settings.target, "watch") as observer:

        async def note() -> None:
            async with target.transaction():
                await lock_tables(target, tables, WRITERS, LOCK_SECONDS, observer)
                await note_deletions(target, written, read)

        await in_turns(note, observer, tables, tries=TRIES, tell=report)
