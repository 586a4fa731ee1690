"""What a cutover says of itself: all its consequences when it is rehearsed, and what stays behind when it is done."""

from collections.abc import Iterable, Mapping

from replicator.core.tables import Name
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.locking.taken import held_locks
from replicator.postgres.session.connect import Connection
from replicator.preflight.consequences import Consequences, Foresight, Lock, still_hanging
from replicator.preflight.hanging import Hanging, Strategy, read_hanging
from replicator.switchover.request import SwitchoverRequest


class Foreseen:
    """Of one cutover; ``foresight``: None for a move after which no old table is closed, of which nothing is told."""

    def __init__(self, foresight: Foresight | None, *, rehearsed: bool) -> None:
        self.consequences: Consequences | None = None
        self.left: list[Hanging] = []
        """What goes on using the old tables once it is done."""
        self._foresight = foresight
        self._rehearsed = rehearsed
        self._locked: dict[int, tuple[str, str]] = {}

    @property
    def users(self) -> tuple[str, ...]:
        """What goes on using the old tables, each once."""
        return tuple(dict.fromkeys(each.what for each in self.left if each.stays))

    async def before(self, old: Connection, new: Connection) -> None:
        """Look while the tables have their names; ``new`` is in no transaction."""
        if self._foresight is not None and self._rehearsed:
            self.consequences = await self._foresight.look(old, new)

    def begin(self) -> None:
        """Another attempt, which holds no lock yet."""
        self._locked = {}
        if self.consequences is not None:
            self.consequences.locks = []

    async def lock(self, holder: Connection, step: str) -> None:
        """Note which locks have come in this step of a rehearsal."""
        if self.consequences is None:
            return
        now = await held_locks(holder)
        by_mode: dict[str, list[str]] = {}
        for oid, (name, mode) in now.items():
            if self._locked.get(oid, ("", ""))[1] != mode:
                by_mode.setdefault(mode, []).append(self._locked.get(oid, (name, ""))[0])
        self._locked = {oid: (self._locked.get(oid, (name, ""))[0], mode) for oid, (name, mode) in now.items()}
        self.consequences.locks += [
            Lock(step=step, mode=mode, tables=tuple(tables)) for mode, tables in sorted(by_mode.items())
        ]

    async def after(self, looking: Connection, closing: Mapping[Name, int], pause: float) -> None:
        """Look when it is done, or would be: after the commit, or at the end of a rehearsed transaction.

        :param closing: the tables that close, by their names before.
        """
        if self._foresight is None:
            return
        wanted = set(self._foresight.closing)
        oids = {oid: name for name, oid in closing.items() if name in wanted}
        self.left = await read_hanging(looking, oids, self._foresight.scene, statements=None)
        if self.consequences is not None:
            found = self.consequences
            self.left = found.hanging = still_hanging(found.hanging, self.left)
            await self._rename(looking, found)
            found.pause_seconds = pause

    @staticmethod
    async def _rename(holder: Connection, found: Consequences) -> None:
        now = {str(name): str(place) for name, place in (await read_places(holder)).moved.items()}
        found.renamed = list(now.items())
        found.refuse, found.take, found.dropped = (
            _named(each, now) for each in (found.refuse, found.take, found.dropped)
        )


def foresight_of(request: SwitchoverRequest, strategy: Strategy, *, together: bool) -> Foresight | None:
    """For what is told of a switchover; None where no old table is closed."""
    if request.move.owner != "new" or request.move.opens_both:
        return None
    return Foresight(
        migration=request.plan.migration,
        forward=request.plan,
        reverse=request.opposite.context.plan,
        together=together,
        strategy=strategy,
        most_seconds=request.settings.max_write_pause,
    )


def _named(names: Iterable[str], now: Mapping[str, str]) -> list[str]:
    return [now.get(each, each) for each in names]
