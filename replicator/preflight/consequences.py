"""What a cutover does to tables and to what hangs on them: one list for ``check``, ``dry-run`` and cutovers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from replicator.core.tables import Name
from replicator.errors import MigrationError
from replicator.mapping.plan import Plan, places_of, taking_part
from replicator.migration import Migration
from replicator.postgres.catalog import edges
from replicator.postgres.ddl.switching import switch_statements
from replicator.postgres.locking.locks import EVERYBODY, WRITERS
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import Connection
from replicator.preflight import edge_checks
from replicator.preflight.hanging import Hanging, Scene, Strategy, read_hanging
from replicator.preflight.lost import NotCarried, read_lost, read_lost_defaults
from replicator.preflight.security import LOSSES, security_subject, successors


@dataclass(frozen=True, kw_only=True)
class Lock:
    """Locks that are taken in one step. ``mode``: as in ``LOCK TABLE``."""

    step: str
    mode: str
    tables: tuple[str, ...]


@dataclass(kw_only=True)
class Consequences:
    """What a cutover does, in the order in which it matters.

    :param strategy: None: not known yet, so both are told of.
    :param refuse: the tables that refuse writes from the commit on; ``take``: those that take them from then on.
    :param renamed: each table's name before, and after.
    :param dropped: what ``replicator cleanup`` drops in the end.
    :param keys: what becomes of foreign keys between tables that close and others, in words.
    :param statements: the team's own, which run in the cutover's transaction.
    :param hanging: what goes on using the old tables.
    :param lost: what belongs to them and not to the new ones, matters of security among it.
    :param locks: in the order in which they are taken, up to the commit.
    :param pause_seconds: how long writers waited when it was rehearsed; None: it was not.
    """

    strategy: Strategy | None
    way_back: bool
    refuse: list[str] = field(default_factory=list)
    take: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    hanging: list[Hanging] = field(default_factory=list)
    lost: list[NotCarried] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    pause_seconds: float | None = None
    most_seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For ``--json``, and for the daemon's answer."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """What can be said before a cutover, and how things stand then.

    :param forward: the plan of the way there; ``reverse`` of the way back, None without one.
    :param together: both schemas are in one database.
    :param most_seconds: after which the cutover is given up.
    :param sampled: see ``read_lost``.
    """

    migration: Migration
    forward: Plan
    reverse: Plan | None
    together: bool
    strategy: Strategy | None = None
    most_seconds: float | None = None
    sampled: bool = False

    @property
    def closing(self) -> list[Name]:
        """The old tables, without their partitions."""
        return [each.name for each in taking_part(self.forward, self.reverse)["old"]]

    @property
    def scene(self) -> Scene:
        """What the sentences about what hangs on them depend on."""
        kept = self.reverse.targets if self.reverse is not None else ()
        return Scene(
            strategy=self.strategy,
            places=places_of(self.forward),
            kept=frozenset(each.name for each in kept),
            together=self.together,
        )

    async def look(self, old: Connection, new: Connection, keys: edges.Plan | None = None) -> Consequences:
        """All of it, as it is now.

        :param old: to the old tables; may be the same as ``new``, in whose transaction the new ones are.
        :param keys: what becomes of foreign keys, if that has been looked at.
        """
        taking = taking_part(self.forward, self.reverse)
        tables = {side: [each.name for each in found] for side, found in taking.items()}
        if keys is None:
            keys = await edge_checks.read_old(old, tables, places_of(self.forward), together=self.together)
        oids = {oid: name for name, oid in (await oids_by_name(old, tables["old"])).items()}
        stay = [table.name for name, table in self.forward.watched.items() if name in self.migration.left]
        found = Consequences(strategy=self.strategy, way_back=self.migration.way_back, most_seconds=self.most_seconds)
        found.refuse = list(map(str, tables["old"]))
        found.take = list(map(str, tables["new"]))
        found.dropped = list(map(str, tables["old"]))
        found.keys = told_keys(keys)
        found.statements = told_statements(self.migration)
        found.hanging = await read_hanging(old, oids, self.scene, statements=new)
        found.lost = await self._lost(old, new)
        found.locks = self._locks([*tables["old"], *stay], tables["new"], keys)
        return found

    async def _lost(self, old: Connection, new: Connection) -> list[NotCarried]:
        places, targets = places_of(self.forward), {each.declared: each.name for each in self.forward.targets}
        into: dict[Name, list[Name]] = {}
        for source, target in successors(self.migration):
            name = self.forward.watched[source].name
            into.setdefault(name, []).append(targets[target])
        into |= {name: [place] for name, place in places.items() if name in into}
        found = await read_lost(old, new, into, sampled=self.sampled)
        if self.strategy != "rename":
            found += await read_lost_defaults(old, new, (self.migration.old, self.migration.new))
        subject = await security_subject(self.migration, old, new, texts=True)
        return found + [
            NotCarried(
                table=pair.old.quoted,
                into=pair.new.quoted,
                security=True,
                what=each.name,
                then=f"{each.said}{' (accepted)' if each.name in subject.accept else ''}",
                statements=each.statements,
            )
            for pair in subject.pairs
            for loss in LOSSES
            for each in loss(pair)
        ]

    def _locks(self, held: Sequence[Name], opened: Sequence[Name], keys: edges.Plan) -> list[Lock]:
        """As the cutover asks for them, save for those of the team's own statements."""
        mode = EVERYBODY if self.strategy == "rename" else WRITERS
        edges = [*keys.aside, *(key for key, _ in keys.moved)]
        ends = dict.fromkeys(name for each in edges for name in (each.child_name, each.parent_name))
        first = dict.fromkeys([*held, *(each for each in ends if each not in opened)])
        found = [Lock(step="hold the writers", mode=mode, tables=tuple(map(str, first)))]
        found.append(Lock(step="move", mode=mode, tables=tuple(map(str, opened))))
        ends |= dict.fromkeys(place for _, place in keys.moved)
        if ends:
            found.append(Lock(step="foreign keys", mode=EVERYBODY, tables=tuple(map(str, ends))))
        return found


def told_keys(plan: edges.Plan) -> list[str]:
    """What becomes of foreign keys, in words."""
    told = [f"{each}: made anew, then to {place}; its rows are looked at afterwards" for each, place in plan.moved]
    told += [f"{each}: dropped until a rollback" for each in plan.aside]
    return told + [f"refused: {each}" for each in plan.stuck]


def told_statements(migration: Migration) -> list[str]:
    """The team's own statements of the cutover, with their files; none that cannot be read, which a check says."""
    try:
        return [f"{each.file}: {each.text}" for each in switch_statements(migration, "cutover")]
    except MigrationError:
        return []


def still_hanging(before: Sequence[Hanging], now: Sequence[Hanging]) -> list[Hanging]:
    """What hangs on the tables now, with the statements that were found while they had their names."""
    ready: Mapping[tuple[str, str], Hanging] = {(each.table, each.what): each for each in before}
    return [ready.get((each.table, each.what), each) for each in now]
