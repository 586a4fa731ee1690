"""The reference migration in SQL gives, row by row, what it gives in Python: there, and back."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from psycopg.rows import dict_row

from replicator.core.tables import Name
from replicator.errors import TransformError
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import Plan
from replicator.migration import Direction
from replicator.pipeline.setup import read_plan
from replicator.postgres.rows.comparing import compare
from replicator.postgres.rows.derived import derive_rows
from replicator.postgres.rows.source import read_range
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import connection
from tests import old_rows
from tests.checking import one_database
from tests.engine import make_settings, reference
from tests.fix_postgres import Database, Running
from tests.old_rows import Party
from tests.reference_in_sql import FUNCTIONS, reference_in_sql
from tests.reference_sql import OLD_TABLES, PINNED, Connection, insert, run, run_all

pytestmark = pytest.mark.one_server

NEW_TABLES = ("requests", "spotify_tokens", "events", "admins")


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    with one_database(request.config, _running) as found:
        yield found


@pytest.fixture(scope="module")
def opened(shared: Database) -> Iterator[Connection]:
    with psycopg.connect(shared.dsn, autocommit=True, row_factory=dict_row) as made:
        for name, value in PINNED.items():
            made.execute("SELECT set_config(%s, %s, false)", [name, value])
        for name in ("timestamp", "timestamptz", "uuid", "jsonb"):
            made.adapters.register_loader(name, psycopg.types.string.TextLoader)
        run(made, "old/10_tables.sql", "new/10_tables.sql")
        made.execute(FUNCTIONS.encode())
        yield made


async def derived(database: Database, plan: Plan) -> dict[Name, list[TargetRow]]:
    found: dict[Name, list[TargetRow]] = {each.name: [] for each in plan.targets}
    async with connection(database.dsn, "test", text=True) as reader, connection(database.dsn, "test") as server:
        for source in plan.sources.values():
            rows = dict(await read_range(reader, source, None, None))
            for transform in source.transforms:
                for key, result in (await derive_rows(server, transform, source, rows)).items():
                    assert not isinstance(result, TransformError), (transform.name, key, result)
                    found[transform.target.name] += result
    return found


async def unequal(database: Database, direction: Direction) -> list[object]:
    """What the transforms in SQL give, beside the tables: those hold what Python gives."""
    plan = await read_plan(make_settings(database), reference_in_sql(), direction)
    found: list[object] = []
    async with connection(database.dsn, "test") as target, target.transaction():
        writer = TargetWriter(target, plan.targets)
        await writer.prepare()
        writer.transaction_begins()
        for table in plan.targets:
            rows = (await derived(database, plan))[table.name]
            found += await compare(writer, table, rows)
            cursor = await target.execute(f"SELECT count(*) FROM {table.name}".encode())
            if await cursor.fetchone() != (len(rows),):
                found.append((table.name, len(rows)))
    return found


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(party=old_rows.parties)
def test_they_give_the_same(shared: Database, opened: Connection, party: Party) -> None:
    for table in [*(f"party.{name}" for name in NEW_TABLES), *(f"public.{name}" for name in OLD_TABLES)]:
        opened.execute(f"DELETE FROM {table}".encode())
    for name, rows in party.items():
        insert(opened, "public", name, rows)
    run_all(opened, "forward", "party")  # and back from there, Python gives the old rows: test_reference_sql
    assert asyncio.run(unequal(shared, "forward")) == []
    assert asyncio.run(unequal(shared, "reverse")) == []


async def test_they_are_declared_alike(shared: Database, opened: Connection) -> None:
    for direction in ("forward", "reverse"):
        plans = [await read_plan(make_settings(shared), each, direction) for each in (reference(), reference_in_sql())]
        shapes = [
            {(each.name, each.source, each.target.name, each.remembers, each.key is None) for each in plan.transforms}
            for plan in plans
        ]
        assert shapes[0] == shapes[1]
