"""A pipeline inside the test: started, stopped as by a crash, drained, and compared with a naive derivation."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

from replicator import Migration
from replicator.errors import TransformError
from replicator.migration import Direction
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.setup import read_plan, set_up_slot
from replicator.postgres.control.control import install
from replicator.postgres.control.lease import Lease
from replicator.postgres.control.progress import read_progress
from replicator.postgres.rows.derived import derive_rows
from replicator.postgres.rows.source import read_range
from replicator.postgres.session.connect import connection
from replicator.runbook.schema import build
from replicator.settings import Settings
from replicator.values import canonical
from tests.fix_postgres import Database
from tests.waiting import SECONDS

OLD_DDL = Path(__file__).parents[1] / "sql" / "old" / "10_tables.sql"


def reference() -> Migration:
    """The migration that ships with the project."""
    from transforms import migration  # a fresh import would declare it twice

    migration.sql = OLD_DDL.parents[1]
    return migration


def make_settings(database: Database, target: Database | None = None, **others: Any) -> Settings:
    """Settings for a test database; nothing is read from the environment."""
    return Settings(
        _env_file=None,
        plugin=database.plugin,
        slot=f"t_{database.dsn.rsplit('/', 1)[-1][-20:]}",
        publication="t_publication",
        http_listen="127.0.0.1:0",
        **{
            "source_dsn": database.dsn,
            "target_dsn": (target or database).dsn,
            "chunk_rows": 50,
            "batch_rows": 100,
            "max_write_pause": 30.0,  # on a busy machine, too
            **others,
        },
    )


class Engine:
    """One pipeline on test databases, in this process."""

    def __init__(self, settings: Settings, migration: Migration, direction: Direction = "forward") -> None:
        self.settings = settings
        self.migration = migration
        self.direction: Direction = direction
        self.pipeline: Pipeline | None = None
        self.on_start: Callable[[Pipeline], None] = lambda _: None
        """Called with a pipeline that is about to follow."""
        self._lease: Lease | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def target_dsn(self) -> str:
        return self.settings.target if self.direction == "forward" else self.settings.source

    @property
    def source_dsn(self) -> str:
        return self.settings.source if self.direction == "forward" else self.settings.target

    @property
    def running(self) -> Pipeline:
        assert self.pipeline is not None, "the engine is not started"
        return self.pipeline

    @property
    def following(self) -> asyncio.Task[None] | None:
        """The task that follows and applies."""
        return self._following

    async def set_up(self) -> None:
        """New tables, control tables, slot."""
        await self.make_tables()
        await self.set_up_slot()

    async def make_tables(self) -> None:
        """New tables and control tables."""
        for dsn in {self.settings.source, self.settings.target}:
            async with connection(dsn, "test") as opened:
                await install(opened, self.migration)
        await build(self.settings, self.migration, ["tables"])

    async def set_up_slot(self) -> None:
        """A new slot, and nothing done yet."""
        await set_up_slot(self.settings, await read_plan(self.settings, self.migration, self.direction))

    async def start(self) -> Pipeline:
        """Take the lease and follow."""
        self._lease = await Lease.acquire(self.target_dsn)
        async with connection(self.target_dsn, "test") as opened:
            progress = await read_progress(opened, self.direction)
        assert progress is not None
        plan = await read_plan(self.settings, self.migration, self.direction)
        self.pipeline = Pipeline(self.settings, plan, progress, self._lease.epoch)
        await self.pipeline.open()
        self.on_start(self.pipeline)
        self._following = asyncio.create_task(self.pipeline.follow())
        return self.pipeline

    async def stop(self) -> None:
        """Stop in the middle of whatever it does: nothing is finished, nothing is confirmed."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self.pipeline is not None:
            await self.pipeline.verifier.close()
            await self.pipeline.close()
        if self._lease is not None:
            await self._lease.release()
        self.pipeline, self._lease, self._following = None, None, None

    async def failure(self) -> BaseException:
        """Wait until the pipeline fails; gives the first error that is no group."""
        assert self._following is not None
        await asyncio.wait([self._following], timeout=SECONDS)
        error = self._following.exception() if self._following.done() else None
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert error is not None, "the pipeline did not fail"
        return error

    async def drain(self) -> None:
        """Wait until all that is committed by now is applied; raises what the pipeline raises."""
        await self.within(self._drained())

    async def backfill(self) -> None:
        """Copy all, and wait for the consistent point."""
        await self.within(self.running.backfill())

    async def build(self, report: Callable[[str], None] = lambda _: None) -> None:
        """Indexes and constraints, while the pipeline writes."""
        await build(self.settings, self.migration, ["indexes", "constraints"], report, self.running)

    async def within(self, work: Any) -> Any:
        """Wait for something, or for the pipeline's failure, whichever comes first."""
        assert self._following is not None
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task, self._following}, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._following in done:
            self._following.result()
        raise TimeoutError("waited too long")

    async def _drained(self) -> None:
        marker = f"test {id(object())}"
        await self.running.nudge(marker)
        await self.running.wait_message(marker)


@contextlib.asynccontextmanager
async def engine(
    database: Database, migration: Migration, target: Database | None = None, **others: Any
) -> AsyncIterator[Engine]:
    """A set-up and started forward engine; stopped at the end."""
    made = Engine(make_settings(database, target, **others), migration)
    await made.set_up()
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


Kind = Literal["missing", "extra", "different"]


async def differences(made: Engine) -> list[tuple[str, Kind, tuple[str, ...]]]:
    """``f(source)`` against the target, derived and compared naively, row by row; nothing is re-checked."""
    plan = (
        made.running.context.plan if made.pipeline else await read_plan(made.settings, made.migration, made.direction)
    )
    expected: dict[str, dict[tuple[str, ...], dict[str, str | None]]] = {each.name.table: {} for each in plan.targets}
    async with (
        connection(made.source_dsn, "test", text=True) as source,
        connection(made.target_dsn, "test") as server,
    ):
        for each in plan.sources.values():
            for key, row in await read_range(source, each, None, None):
                for transform in each.transforms:
                    (result,) = (await derive_rows(server, transform, each, {key: row})).values()
                    if isinstance(result, TransformError):
                        raise result
                    for given in result:
                        assert given.key not in expected[transform.target.name.table], "two rows give one key"
                        expected[transform.target.name.table][given.key] = given.columns
    found: list[tuple[str, Kind, tuple[str, ...]]] = []
    async with connection(made.target_dsn, "test", text=True) as target:
        for table in plan.targets:
            wanted = expected[table.name.table]
            shape = sql.Identifier(table.name.schema, table.name.table)
            compared = sql.SQL(", ").join(sql.Identifier(each.name) for each in table.columns if not each.generated)
            question = sql.SQL("SELECT {} FROM wanted").format(compared)
            async with target.cursor() as cursor:
                await cursor.execute(sql.SQL("CREATE TEMP TABLE wanted AS SELECT * FROM {} WITH NO DATA").format(shape))
                for columns in wanted.values():
                    await cursor.execute(
                        sql.SQL("INSERT INTO wanted ({}) VALUES ({})").format(
                            sql.SQL(", ").join(map(sql.Identifier, columns)),
                            sql.SQL(", ").join(sql.Literal(value) for value in columns.values()),
                        )
                    )
                should = {table.key_of(dict(zip(names(cursor), row, strict=True))): row async for row in
                          await cursor.execute(question, prepare=False)}  # fmt: skip
                await cursor.execute("DROP TABLE wanted")
                held = {table.key_of(dict(zip(names(cursor), row, strict=True))): row async for row in
                        await cursor.execute(sql.SQL("SELECT {} FROM {}").format(compared, shape))}  # fmt: skip
            found += [(table.name.table, "missing", key) for key in should.keys() - held.keys()]
            found += [(table.name.table, "extra", key) for key in held.keys() - should.keys()]
            found += [
                (table.name.table, "different", key)
                for key in should.keys() & held.keys()
                if should[key] != held[key]
            ]  # fmt: skip
    return sorted(found)


def names(cursor: Any) -> list[str]:
    return [each.name for each in cursor.description or ()]


def create_old_tables(dsn: str) -> None:
    """The seven old tables of the reference migration."""
    with psycopg.connect(dsn, autocommit=True) as old:
        old.execute(OLD_DDL.read_bytes())


def execute(dsn: str, statements: Iterable[str]) -> None:
    """Run statements in one transaction."""
    with psycopg.connect(dsn) as opened:
        for statement in statements:
            opened.execute(statement.encode())


__all__ = ["SECONDS", "Engine", "canonical", "create_old_tables", "differences", "engine", "execute", "make_settings"]
