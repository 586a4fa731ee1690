"""How long the application's queries take on the old tables, and whether their twins on the new ones are slower."""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from replicator.errors import ConnectionLostError, MigrationError, NotReadyError, ReplicatorError, UsageError
from replicator.migration import Migration
from replicator.postgres.control.control import installed, read_phase
from replicator.postgres.control.journal import record
from replicator.postgres.control.mailbox import operator
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.control.undisturbed import undisturbed
from replicator.postgres.ddl.ddl import statements
from replicator.postgres.ddl.rewriting import rewritten
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.trying.probes import Plan, explain, time_query, without_statistics
from replicator.settings import Settings
from replicator.switchover.phases import Phase

Side = Literal["old", "new"]

WARM_UP = 2
TOLERATED = 1.10
"""A new query may take so many times what its old twin takes."""
FLOOR = 0.1
"""Milliseconds; what is apart by less is the same."""
CHANCE = 0.01
"""How improbable the runs must be if the new query were not slower than is tolerated."""
FEWEST = math.ceil(-math.log2(CHANCE))
"""With fewer pairs of runs nothing is that improbable."""
HOW = (
    "Write the queries that the application runs most, a file each: sql/probes/old/NAME.sql on the old tables, "
    "sql/probes/new/NAME.sql on the new ones; tables with their schema."
)

Watch = Callable[[str, str], None]
"""Told the step that goes on, and how far it is."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The runs of one query, in milliseconds and in their order, and its plan."""

    runs: tuple[float, ...]
    plan: Plan

    @property
    def median(self) -> float:
        """Half of the runs took no longer."""
        return statistics.median(self.runs)

    @property
    def p95(self) -> float:
        """19 of 20 runs took no longer."""
        return sorted(self.runs)[math.ceil(len(self.runs) * 0.95) - 1]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A query, and its twin when they were compared."""

    name: str
    old: Measured
    new: Measured | None

    @property
    def slower(self) -> bool:
        """Whether the twin is slower than is tolerated, beyond what chance would do."""
        return self.new is not None and is_slower(self.old.runs, self.new.runs)


def is_slower(old: Sequence[float], new: Sequence[float]) -> bool:
    """Whether the new runs are slower than is tolerated; each was run next to the old one of the same place.

    The medians must be further apart than is tolerated and than the floor. And so many pairs must be that far apart
    as would be, by chance, in one of a hundred trials (a sign test, which knows nothing of how times are distributed).
    """
    before, after = statistics.median(old), statistics.median(new)
    if after <= before * TOLERATED or after - before <= FLOOR:
        return False
    over = sum(n > o * TOLERATED for o, n in zip(old, new, strict=True))
    pairs = len(old)
    return sum(math.comb(pairs, k) for k in range(over, pairs + 1)) / (1 << pairs) <= CHANCE


def read_probes(migration: Migration) -> dict[str, dict[Side, str]]:
    """The pairs of queries by name. Raises MigrationError when there are none, or when a twin is missing."""
    folder = migration.folder() / "probes"
    sides: tuple[Side, Side] = ("old", "new")
    found = {side: {path.stem: path for path in sorted((folder / side).glob("*.sql"))} for side in sides}
    names = sorted(found["old"] | found["new"])
    if not names:
        raise MigrationError(f"There are no probes in {folder}.", HOW)
    for name in names:
        for side, other in (sides, sides[::-1]):
            if name not in found[side]:
                missing = folder / side / f"{name}.sql"
                raise MigrationError(f"The probe {found[other][name]} has no twin: {missing} is missing.", HOW)
    return {name: {side: _query(found[side][name]) for side in sides} for name in names}


def _query(path: Path) -> str:
    found = statements(path)
    if len(found) != 1:
        raise MigrationError(f"The probe {path} has {len(found)} statements.", "A probe is one query.")
    return found[0]


@dataclass(kw_only=True)
class _Case:
    """A query on its side, and what has been measured of it."""

    name: str
    side: Side
    query: str
    end: Connection
    plan: Plan | None = None
    runs: list[float] = field(default_factory=list)

    async def look(self) -> None:
        with self._named():
            self.plan = await explain(self.end, self.query)

    async def run(self) -> float:
        with self._named():
            return await time_query(self.end, self.query)

    def measured(self) -> Measured:
        assert self.plan is not None  # noqa: S101  # each is looked at first
        return Measured(runs=tuple(self.runs), plan=self.plan)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except ConnectionLostError:
            raise
        except ReplicatorError as error:
            raise MigrationError(
                f"The probe sql/probes/{self.side}/{self.name}.sql failed: {error.problem}", "Mend the query."
            ) from error


async def measure(
    settings: Settings, migration: Migration, runs: int, watch: Watch, note: Callable[[str], None], *, compare: bool
) -> list[Probe]:
    """Run every query so many times, after a warm-up; old and new take turns, so that both meet the same server.

    :param note: told what may mislead.
    :raises UsageError: there are too few runs to compare.
    :raises NotReadyError: the new tables are not complete.
    :raises MigrationError: there are no probes, or Postgres refuses one; nothing can be written by it.
    """
    if compare and runs < FEWEST:
        raise UsageError(f"{runs} runs are too few to tell a difference from chance.", f"--runs {FEWEST} at least.")
    work = partial(_measure, settings, migration, runs, watch, note, compare=compare)
    return await undisturbed((settings.source, settings.target), work)


async def _measure(
    settings: Settings, migration: Migration, runs: int, watch: Watch, note: Callable[[str], None], *, compare: bool
) -> list[Probe]:
    probes = read_probes(migration)
    async with connection(settings.source, "baseline") as old, connection(settings.target, "baseline") as new:
        ends: dict[Side, Connection] = {"old": old}
        if compare:
            await _require_new_tables(new, migration, note)
            ends["new"] = new
        places = await read_places(old)
        pairs = {
            name: [
                _Case(name=name, side=side, query=rewritten(queries[side], places), end=end)
                for side, end in ends.items()
            ]
            for name, queries in probes.items()
        }
        await _run(pairs, runs, watch)
    return [
        Probe(name=name, old=cases[0].measured(), new=cases[1].measured() if compare else None)
        for name, cases in pairs.items()
    ]


async def _run(pairs: Mapping[str, list[_Case]], runs: int, watch: Watch) -> None:
    for name, cases in pairs.items():
        watch("reading plans", name)
        for case in cases:
            await case.look()
    for turn in range(-WARM_UP, runs):
        watch("running the probes", f"round {turn + 1} of {runs}" if turn >= 0 else "warming up")
        for cases in pairs.values():
            for case in cases if turn % 2 else reversed(cases):  # neither always profits from the other's work
                took = await case.run()
                if turn >= 0:
                    case.runs.append(took)


async def _require_new_tables(target: Connection, migration: Migration, note: Callable[[str], None]) -> None:
    phase = await read_phase(target) if await installed(target) else None
    if phase is None:
        raise NotReadyError("No migration has been started here.", "Compare when its phase is `follow`.")
    if phase in (Phase.BACKFILL, Phase.BUILD):
        raise NotReadyError(f"The new tables are not complete in the phase {phase}.", "Compare when it is `follow`.")
    if guessed := await without_statistics(target, (await read_places(target)).schema(migration.new)):
        note(f"Never analyzed, so that plans are guesses: {', '.join(guessed)}. ANALYZE them, and compare again.")


def describe(probes: Sequence[Probe], *, plans: bool) -> list[dict[str, Any]]:
    """The probes as JSON; with the plans, or without."""
    return [
        {
            "name": each.name,
            "slower": each.slower,
            "old": _describe(each.old, plans=plans),
            "new": _describe(each.new, plans=plans) if each.new else None,
        }
        for each in probes
    ]


def _describe(measured: Measured, *, plans: bool) -> dict[str, Any]:
    shown = {
        "median_ms": round(measured.median, 3),
        "p95_ms": round(measured.p95, 3),
        "buffers": measured.plan.buffers,
        "rows": measured.plan.rows,
        "nodes": list(measured.plan.nodes),
    }
    more = {"runs_ms": [round(each, 3) for each in measured.runs], "plan": measured.plan.document}
    return shown | (more if plans else {})


def write(file: Path, probes: Sequence[Probe], runs: int) -> None:
    """Write all that was measured into a file. Raises UsageError when that cannot be."""
    document = {"taken_at": datetime.now(UTC).isoformat(), "runs": runs, "probes": describe(probes, plans=True)}
    try:
        file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}.", "Name another file with --to.") from error


async def enter_figures(settings: Settings, probes: Sequence[Probe], runs: int) -> None:
    """Enter the medians into the journal, where there is one."""
    medians = {
        each.name: {"old_ms": round(each.old.median, 3)} | ({"new_ms": round(each.new.median, 3)} if each.new else {})
        for each in probes
    }
    slower = [each.name for each in probes if each.slower]
    details = {"runs": runs, "probes": medians, "slower": slower, "by": operator()}
    await record(settings.target, "baseline", details)
