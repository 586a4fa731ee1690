"""``cutover --strategy rename``: in the cutover's own transaction the new tables take the place of the old ones.

The rollback gives all names back. Whoever works by names must learn them anew: pipelines are opened again.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence

from replicator.core.name_map import NameMap
from replicator.core.retyped import retyped
from replicator.core.tables import Name
from replicator.errors import CheckError, NotReadyError, ReplicatorError, RetryableError, UsageError
from replicator.migration import Lookup, Migration, Query
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.control.control import Owner
from replicator.postgres.control.ownership import same_database
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.renames import (
    lacking_create,
    planned_renames,
    reads,
    rename,
    rename_back,
)
from replicator.postgres.ddl.rewriting import named, rewritten
from replicator.postgres.locking.locks import EVERYBODY, lock_more, lock_tables
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import Connection, connection
from replicator.preflight.hanging import Strategy
from replicator.settings import Settings
from replicator.switchover.handover import owner_now
from replicator.switchover.phases import Transition
from replicator.switchover.request import Attempt, SwitchoverRequest
from replicator.switchover.strategy import SwitchoverStrategy
from replicator.switchover.transfer import transfer

GRACE_SECONDS = 0.5
"""So much longer than the longest pause the writers may wait, when it is exceeded in the middle of a batch."""

PARAMETER = re.compile(r"%\([^)]+\)s")


class Renaming:
    """One move that renames tables.

    :param names: held by whoever needs the tables' names to stand still.
    """

    def __init__(
        self, migration: Migration, move: Transition, tables: Mapping[Owner, list[Name]], names: asyncio.Lock
    ) -> None:
        self.migration = migration
        self.move = move
        self.tables = tables
        self.retyped: list[str] = []
        """What prepared statements will find of another type."""
        self._names = names
        self._holding = False

    @property
    def back(self) -> bool:
        """The names are given back."""
        return self.move.owner == "old"

    async def hold(self) -> None:
        """Let nobody else work by the tables' names."""
        await self._names.acquire()
        self._holding = True

    def let_go(self) -> None:
        """End that, if it is so."""
        if self._holding:
            self._holding = False
            self._names.release()

    # ---- before

    async def check(self, asking: Connection) -> None:
        """Raise CheckError when the tables cannot be renamed, as far as it shows before the lock."""
        if missing := await lacking_create(asking, [self.migration.old, self.migration.new]):
            raise CheckError("Tables cannot be renamed, or moved to the other schema.", " ".join(missing))
        await planned_renames(asking, self.tables["old"], self.tables["new"], self.migration.old)
        known = {
            oid: name for name, oid in (await oids_by_name(asking, [*self.tables["old"], *self.tables["new"]])).items()
        }
        for which, text in queries(self.migration).items():
            read = {known[oid] for oid in await _reads(asking, which, text) if oid in known}
            if unnamed := read - named(text, read):
                listed = ", ".join(sorted(map(str, unnamed)))
                raise CheckError(
                    f"{which} does not name these tables with their schema: {listed}.",
                    "Once they are renamed, it would read others. Write schema.table.",
                )
        old = await read_tables(asking, self.migration.old)
        self.retyped = retyped(old, await read_tables(asking, self.migration.new))

    # ---- in the cutover's transaction

    async def rename(self, holder: Connection) -> None:
        """Rename, or give the names back, and see that every query reads what it read before."""
        before = await self._queries_read(holder, await read_places(holder))
        if self.back:
            await rename_back(holder)
        else:
            planned = await planned_renames(holder, self.tables["old"], self.tables["new"], self.migration.old)
            await rename(holder, planned)
        for which, oids in (await self._queries_read(holder, await read_places(holder))).items():
            if oids != before[which]:
                raise NotReadyError(
                    f"{which} would read other tables once they are renamed; the writers went on.",
                    "Write tables with their schema, and not in strings.",
                )

    async def _queries_read(self, holder: Connection, places: NameMap) -> dict[str, set[int]]:
        return {
            which: await _reads(holder, which, rewritten(text, places))
            for which, text in queries(self.migration).items()
        }


async def planned_renaming(
    settings: Settings,
    migration: Migration,
    move: Transition,
    tables: Mapping[Owner, list[Name]],
    names: asyncio.Lock,
    strategy: Strategy,
) -> Renaming | None:
    """What this move renames, if anything. Raises UsageError or CheckError when it cannot be."""
    if strategy == "rename" and (move.opens_both or move.from_both):
        raise UsageError(
            "--strategy rename and --rolling exclude each other: both schemas' tables cannot have one place.",
            "Give one of them.",
        )
    if move.owner == "old" or strategy == "schema":
        renamed = move.owner == "old" and (await owner_now(settings)).renamed
        return Renaming(migration, move, tables, names) if renamed else None
    renaming = Renaming(migration, move, tables, names)
    async with connection(settings.source, "renaming") as old, connection(settings.target, "renaming") as new:
        if not await same_database(old, new):
            raise CheckError(
                "Tables can take each other's place in one database only; these are two.",
                "Cut over with --strategy schema.",
            )
        await renaming.check(old)
    return renaming


def queries(migration: Migration) -> dict[str, str]:
    """All SQL of the migration that a pipeline runs, either way, by what it is."""
    found = {}
    for each in migration.transforms:
        if isinstance(each.source, Query):
            found[f"The query {each.source_name} ({each.direction})"] = migration.query_text(each.source)
            for table, rule in each.source.depends_on.items():
                if isinstance(rule, Lookup):
                    which = f"The lookup of {each.source_name} for {table} ({each.direction})"
                    found[which] = PARAMETER.sub("NULL", rule.sql).replace("%%", "%")
    return found


async def _reads(asking: Connection, which: str, text: str) -> set[int]:
    try:
        return await reads(asking, text)
    except RetryableError:
        raise
    except ReplicatorError as error:
        raise NotReadyError(
            f"{which} cannot be followed through the renaming: {error.problem}", "Write tables with their schema."
        ) from error


class RenamingStrategy(SwitchoverStrategy):
    """Holds readers too, from the start: one that went on to write would keep the tables from being renamed.

    So it reads the source itself, for the pipeline. The opposite one stands still when the names change.
    """

    name: Strategy = "rename"
    holder_gives_text = True

    def __init__(self, renaming: Renaming) -> None:
        self._renaming = renaming
        self._reads_through_holder = False

    @property
    def retyped(self) -> Sequence[str]:
        """What prepared statements meet."""
        return self._renaming.retyped

    async def begin(self) -> None:
        """Let nobody else work by the tables' names."""
        await self._renaming.hold()

    async def hold(self, attempt: Attempt, tables: Sequence[Name]) -> None:
        """Keep everybody waiting, and let the pipeline go on through the holder: no other session may read.

        :raises LockedOutError: the lock does not come in time.
        """
        write_gate = attempt.request.pipeline.write_gate
        await write_gate.pause()
        await lock_tables(attempt.holder, tables, EVERYBODY, attempt.hold_seconds, attempt.observer)
        self._reads_through_holder = True
        write_gate.go_on_through(attempt.holder)

    def looks_through(self, attempt: Attempt) -> Connection:
        """Any other connection would wait for this one."""
        return attempt.holder

    async def move(self, attempt: Attempt) -> None:
        """Write guards and state row, then rename. Raises NotReadyError or LockedOutError."""
        request, holder = attempt.request, attempt.holder
        await request.opposite.write_gate.pause()
        migration = self._renaming.migration
        await transfer(attempt, migration.new if self._renaming.back else migration.old)
        attempt.at("rename")
        opens = request.tables[request.move.owner]
        await lock_more(holder, opens, EVERYBODY, attempt.hold_seconds, attempt.observer)
        definitions = [each.monitor.definitions for each in (request.pipeline, request.opposite)]
        before = [await each.read(holder) for each in definitions]
        await self._renaming.rename(holder)
        # Else the daemon would take its own renaming for one past the log, and compare all rows on either way.
        for each, was in zip(definitions, before, strict=True):
            await each.carry(holder, was)

    async def before_rollback(self, request: SwitchoverRequest) -> None:
        """A batch that reads through the holder fails with it, and this session too: a short one may end before."""
        if self._reads_through_holder:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(request.pipeline.write_gate.pause(), GRACE_SECONDS)
        self._reads_through_holder = False

    def end(self, request: SwitchoverRequest) -> None:
        """The names are as before: whoever works by them may go on."""
        request.opposite.write_gate.resume()
        self._renaming.let_go()
