"""What is to happen in a run: it follows from the run's seed alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from replicator.runtime.failpoints import Failpoint
from tests.faults.kinds import GROUND, KINDS, Kind

LATEST: Final = {
    "start": 1.5, "backfill": 0.6, "follow": 0.6, "move": 0.5, "cutover": 0.2, "rolling": 0.5, "soak": 0.5, "back": 0.5,
    "rollback": 0.2,
}  # fmt: skip
"""How long after a milestone a fault comes, at most."""
ACTIONS: Final = {"kill": 5, "kill:delayed": 2, "term": 1, "lose": 2, "hang": 1}
OFTEN: Final = {
    Failpoint.STAGED: 10, Failpoint.CHUNK_PLANNED: 8, Failpoint.CHUNK_READ: 8, Failpoint.CHUNK_WRITTEN: 8,
    Failpoint.CHUNK_COMMITTED: 8, Failpoint.BATCH_WRITTEN: 20, Failpoint.BATCH_COMMITTING: 20,
    Failpoint.BATCH_COMMITTED: 20, Failpoint.CONFIRMED: 20, Failpoint.STATEMENT_COMING: 14,
    Failpoint.STATEMENT_DONE: 14, Failpoint.PHASE_COMING: 4, Failpoint.PHASE_STORED: 4, Failpoint.PUBLISHED: 2,
    Failpoint.SLOT_MADE: 2, Failpoint.PROGRESS_MADE: 2,
}  # fmt: skip
"""How often a run is sure to pass a failpoint, where that is more than once."""
WITH: Final = {
    Failpoint.SETTLING: ("cutover_guarded:1:kill", "cutover_committed:1:kill"),
    Failpoint.TAKING_BACK: ("cutover_locked:1:lose", "cutover_drained:1:lose"),
}
"""What must have happened before a failpoint is passed at all: one of these."""
BACK: Final = (Failpoint.RECONCILED,)
"""What only a rollback passes."""
MOVING: Final = tuple(
    point for point in list(Failpoint)[list(Failpoint).index(Failpoint.OPPOSITE_MADE) :] if point not in WITH
)
"""What the cutover and the rollback both pass."""
REPAIRS: Final = (Failpoint.REDO_WRITTEN, Failpoint.REDO_COMMITTED)
POINTS_A_RUN: Final = 3
RENAMES: Final = 0.5
"""So many of the cutovers within one database rename the tables: about a fifth of all."""
ROLLS: Final = 0.1
"""So many of the other moves go by way of a time when both schemas take writes, besides those that a fault needs so."""
GROUNDS: Final = tuple((kind, milestone) for kind in GROUND for milestone in kind.milestones)
"""Each change of the ground, at each milestone."""


@dataclass(kw_only=True)
class Plan:
    """What is to happen in a run."""

    seed: int
    faults: list[tuple[Kind, str, float]] = field(default_factory=list)
    """Each with the milestone that it comes after, and how many seconds after that."""
    armings: list[str] = field(default_factory=list)
    moves: bool = True
    renames: bool = False
    """Whether the cutover renames the tables; it needs one database."""
    rolling: bool = False
    """Whether both schemas take writes for a while."""
    back: bool = False
    """Whether there is a rollback after the cutover."""
    straight_back: bool = False
    """Whether the rollback ends the time when both take writes, and the new schema never owns the data alone."""
    apart: bool = False
    lull: bool = False
    """Whether the writers pause for a while, so that the stream is idle."""

    def at(self, milestone: str) -> bool:
        """Whether a fault comes after this milestone."""
        return any(each == milestone for _, each, _ in self.faults)

    def suits(self, kind: Kind) -> bool:
        """Whether a fault of this kind goes with the others: one of a kind at most, on tables of one sort."""
        others = [each for each, _, _ in self.faults]
        partitioned = kind.partitioned or any(each.partitioned for each in others)
        return kind not in others and not (partitioned and (kind.plain or any(each.plain for each in others)))

    @property
    def proxied(self) -> bool:
        """Whether the daemon talks to the server through a proxy."""
        return any(kind.proxied for kind, _, _ in self.faults)

    @property
    def partitioned(self) -> bool:
        """Whether the old table of tickets is partitioned."""
        return any(kind.partitioned for kind, _, _ in self.faults)

    @property
    def name(self) -> str:
        """What it is about, in short."""
        renames = ["--strategy rename"] * self.renames + ["--rolling"] * self.rolling
        return ", ".join([*(kind.name for kind, _, _ in self.faults), *self.armings, *renames])

    def __str__(self) -> str:
        told = [f"{kind.name} after {milestone}" for kind, milestone, _ in self.faults]
        told += [f"[{number}] {each}" for number, each in enumerate(self.armings)]
        told.append("two databases" if self.apart else "one database")
        cutover = "cutover --strategy rename" if self.renames else "cutover" if self.moves else "no cutover"
        if self.rolling:
            cutover = "cutover --rolling" if self.straight_back else "cutover --rolling and --complete"
        told.append(f"{cutover} and rollback" if self.back else cutover)
        return f"{self.seed}: {'; '.join(told)}"


def plan_of(seed: int) -> Plan:
    """Every other seed is for failpoints, the others go through the kinds; in two of three the ground changes too."""
    plan = _plan_of(seed)
    if seed % 3:
        _change_ground(plan, seed * 2 // 3, random.Random(f"{seed} ground"))
    chance = random.Random(f"{seed} rolls")
    plan.rolling = plan.at("rolling") or (plan.moves and chance.random() < ROLLS)
    past = [milestone for kind, milestone, _ in plan.faults if kind.past_the_log]
    if plan.rolling and not {"move", "cutover", "rolling"}.isdisjoint(past):
        # What has happened to an old table past the log is lost by --complete, which is refused therefore.
        plan.back = plan.straight_back = True
        plan.faults = [(kind, "back" if each == "soak" else each, after) for kind, each, after in plan.faults]
    elif plan.rolling and plan.back and not plan.at("soak"):
        plan.straight_back = chance.random() < 0.5
    plan.renames = (
        plan.moves
        and not (plan.apart or plan.partitioned or plan.rolling)
        and random.Random(f"{seed} renames").random() < RENAMES
    )
    return plan


def _change_ground(plan: Plan, number: int, chance: random.Random) -> None:
    """One change of the ground: in the long run each comes equally often at each milestone."""
    lap, place = divmod(number, len(GROUNDS))
    kind, milestone = random.Random(f"{lap} grounds").sample(GROUNDS, len(GROUNDS))[place]
    if not plan.suits(kind):
        return
    plan.moves = plan.moves or milestone not in ("start", "backfill", "follow")
    plan.back = plan.back or milestone in ("back", "rollback")
    plan.faults.append((kind, milestone, chance.uniform(0, LATEST[milestone])))


def _plan_of(seed: int) -> Plan:
    chance = random.Random(seed)
    moves, back, apart = chance.random() < 0.8, chance.random() < 0.35, chance.random() < 0.35
    if seed % 2 == 0:
        plan = Plan(seed=seed, apart=apart, back=back)
        _arm(plan, _points(seed // 2), chance)
        if chance.random() < 0.2:
            _add(plan, chance.choice([kind for kind in KINDS if kind.apart is None and plan.suits(kind)]), chance)
        return plan
    plan = Plan(seed=seed, moves=moves, back=moves and back, apart=apart)
    _add(plan, KINDS[seed // 2 % len(KINDS)], chance)
    if chance.random() < 0.3:
        _add(plan, chance.choice([kind for kind in KINDS if kind.apart is None and plan.suits(kind)]), chance)
    return plan


def plan_for(kinds: Sequence[Kind], seed: int) -> Plan:
    """A run with a fault of each of these kinds."""
    chance = random.Random(seed)
    plan = Plan(seed=seed, apart=chance.random() < 0.35)
    for kind in kinds:
        _add(plan, kind, chance)
    return plan


def plan_rolling(kind: Kind, seed: int) -> Plan:
    """A run in which a fault comes while both schemas take writes."""
    chance = random.Random(seed)
    return Plan(seed=seed, faults=[(kind, "rolling", chance.uniform(0, LATEST["rolling"]))], rolling=True)


def plan_at(points: list[Failpoint], seed: int, *, renames: bool = False, back: bool = False) -> Plan:
    """A run that passes armed failpoints, and nothing else."""
    chance = random.Random(seed)
    plan = Plan(seed=seed, apart=chance.random() < 0.35 and not renames, renames=renames, back=back)
    _arm(plan, points, chance)
    return plan


def _points(number: int) -> list[Failpoint]:
    """The failpoints of one run: in the long run each comes equally often, in ever other company."""
    several: list[Failpoint] = []
    place = number * POINTS_A_RUN
    while len(several) < POINTS_A_RUN:
        lap, position = divmod(place, len(Failpoint))
        order = random.Random(lap).sample(list(Failpoint), len(Failpoint))
        if order[position] not in several:
            several.append(order[position])
        place += 1
    return several


def _add(plan: Plan, kind: Kind, chance: random.Random) -> None:
    if kind.apart is not None:
        plan.apart = kind.apart
    plan.moves = plan.moves or kind.moves
    missed = ["rolling", *([] if plan.moves else ["move", "cutover", "soak"])]
    missed += [] if plan.back else ["back", "rollback"]
    milestone = chance.choice([each for each in kind.milestones if each not in missed])
    plan.faults.append((kind, milestone, chance.uniform(0, LATEST[milestone])))


def _arm(plan: Plan, points: list[Failpoint], chance: random.Random) -> None:
    """Arm the daemon's first life with the first of them that ends it, the second with the next, and so on."""
    if repair := [point for point in points if point in REPAIRS]:
        _add(plan, next(kind for kind in KINDS if kind.name == "row refused, transform mended"), chance)
        plan.armings = [f"{repair[0]}:1:{chance.choice(('kill', 'lose', 'term'))}"] * 3
        return
    plan.back = plan.back or any(point in BACK for point in points)
    plan.lull = Failpoint.IDLE_COMMITTED in points
    lives: list[list[str]] = [[]]
    for point in sorted(points, key=list(Failpoint).index):
        if point in WITH:
            lives[-1].append(chance.choice(WITH[point]))
            if ":kill" in lives[-1][-1]:
                lives.append([])
        often = 2 if plan.back and point in MOVING else OFTEN.get(point, 1)
        passing = 1 if chance.random() < 0.5 else chance.randint(1, often)
        [action] = chance.choices(list(ACTIONS), list(ACTIONS.values()))
        if action == "kill:delayed":
            action = f"kill:{chance.uniform(0.001, 0.1):.3f}"
        elif action == "hang":
            action = f"hang:{chance.uniform(0.2, 1.5):.1f}"
        lives[-1].append(f"{point}:{passing}:{action}")
        if action.startswith(("kill", "term")):
            lives.append([])
    plan.armings = [",".join(dict.fromkeys(life)) for life in lives if life]
