"""Verification finds what was changed behind the engine's back, and nothing else; repair mends just that."""

import asyncio
import io
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.console import Console

from replicator.apply.target_rows import delete_rows
from replicator.cli import views
from replicator.errors import NotReadyError
from replicator.pipeline.repair import compare, repair, repairing
from replicator.postgres.session.connect import connection
from replicator.verify import Divergence, advice, summary
from tests.comparing import BEHIND, full_pass
from tests.engine import Engine, differences, engine, execute, reference
from tests.fix_postgres import Database
from tests.reference import seed
from tests.small import create_small, small_migration

pytestmark = pytest.mark.two_servers


def found(divergences: list[Divergence]) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(each.target, each.kind, each.key) for each in divergences}


async def test_a_true_copy_is_clean(database: Database) -> None:
    seed(database.dsn)
    async with engine(database, reference()) as made:
        await made.backfill()
        assert await full_pass(made) == []
        assert made.running.verifier.clean


async def test_missing_extra_and_different_rows_are_told_apart(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 120) i")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(
            database.dsn,
            [
                BEHIND,
                "DELETE FROM store.people WHERE id = 3",
                "UPDATE store.people SET age = age + 1, note = 'x' WHERE id = 77",
                "INSERT INTO store.people VALUES (900, 'nobody knows', 1)",
                "INSERT INTO store.tags VALUES ('#alien', 1)",
            ],
        )
        divergences = await full_pass(made)
        assert found(divergences) == {
            ("people", "missing", ("3",)),
            ("people", "different", ("77",)),
            ("people", "extra", ("900",)),
            ("tags", "extra", ("#alien",)),
        }
        assert next(each.columns for each in divergences if each.kind == "different") == ("age", "note")
        assert not made.running.verifier.clean


async def test_repair_mends_just_those(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 50) i")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(
            database.dsn,
            [BEHIND, "DELETE FROM store.people WHERE id = 3", "INSERT INTO store.people VALUES (900, 'x', 1)"],
        )
        with psycopg.connect(database.dsn) as target:
            untouched = target.execute(
                "SELECT id, xmin FROM store.people WHERE id NOT IN (3, 900) ORDER BY id"
            ).fetchall()
        divergences = await full_pass(made)
        async with repairing(made.running) as work:
            await delete_rows(work, {"people": [("900",)]})
            await work.derive_again({"people": {("3",)}})
        assert len(divergences) == 2
        assert await full_pass(made) == []
        with psycopg.connect(database.dsn) as target:
            rows = target.execute("SELECT id, xmin FROM store.people WHERE id NOT IN (3, 900) ORDER BY id").fetchall()
        assert rows == untouched


async def test_two_sources_for_one_target_row_are_named(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, "INSERT INTO people VALUES (1, 'a', '1', '#same')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO people VALUES (2, 'b', '2', '#same')"])
        await made.drain()
        notes = [each.note for each in await full_pass(made)]
        assert notes == ["2 source rows produce this row: people ['1'] (tags) and people ['2'] (tags)"]


async def test_live_writers_are_no_divergence(database: Database) -> None:
    seed(database.dsn, 600)
    async with engine(database, reference(), chunk_rows=50) as made:
        await made.backfill()
        await made.build()
        checking = asyncio.create_task(full_pass(made))
        number = 0
        while not checking.done():
            number += 1
            await asyncio.to_thread(
                execute,
                database.dsn,
                [
                    f"UPDATE requests SET status = 'played', approved_at = now() WHERE id = 'r{number % 7 + 1}'",
                    f"DELETE FROM requests WHERE id = 'r{number % 500 + 8}'",
                    "INSERT INTO requests (id, track_uri, track_name, artist_name, duration_ms, requester_ip_hash) "
                    f"VALUES ('new{number}', 'u', 'n', 'a', 1, 'h')",
                    f"UPDATE settings SET value = '{number}'",
                ],
            )
        assert number > 1, "nothing was written during the pass"
        assert await checking == []
        await made.drain()
        await made.running.verifier.settle()
        assert made.running.verifier.clean
        assert await differences(made) == []


async def test_what_changed_since_is_compared_again(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 50) i")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        assert await full_pass(made) == []
        execute(database.dsn, ["UPDATE people SET name = 'later' WHERE id IN (5, 6)"])
        await made.drain()
        execute(database.dsn, [BEHIND, "UPDATE store.people SET name = 'spoiled' WHERE id = 5"])
        assert Counter(made.running.context.dirty_keys.waiting_keys("people")) == Counter([("5",), ("6",)])
        final = await made.running.verifier.final_check()
        assert found(final) == {("people", "different", ("5",))}
        await made.running.verifier.settle()
        assert found(list(made.running.verifier.divergences)) == {("people", "different", ("5",))}
        async with repairing(made.running) as work:
            await work.derive_again({"people": {("5",)}})
        await made.running.verifier.settle()
        assert made.running.verifier.clean


async def test_repair_takes_no_row_that_has_come_to_be_given_meanwhile(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 20) i")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, [BEHIND, "INSERT INTO store.people VALUES (900, 'x', 1), (901, 'y', 1)"])
        divergences = await full_pass(made)
        assert len(divergences) == 2
        execute(database.dsn, ["INSERT INTO people VALUES (900, 'now there is one', '30')"])
        await made.drain()
        await repair(made.running, divergences, "test")
        assert await differences(made) == []


# ---- what no repair can mend, and what none may do


async def test_two_source_rows_that_give_one_row_are_named_everywhere_and_no_repair_is_advised(
    database: Database, tmp_path: Path
) -> None:
    create_small(database.dsn, "INSERT INTO people VALUES (1, 'a', '1', '#same')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO people VALUES (2, 'b', '2', '#same')"])
        await made.drain()
        divergences = await full_pass(made)
        verifier = made.running.verifier
        assert [each.owners for each in divergences] == [(("tags", ("1",)), ("tags", ("2",)))]
        assert await repair(made.running, divergences, "test") == 0
        await made.within(verifier.settle())
        assert not verifier.standing.ok
        for named in ("tags ['#same']", "people ['1'] (tags) and people ['2'] (tags)", "no repair can mend"):
            assert named in verifier.standing.text
        assert "--repair" not in verifier.standing.text
        answer: dict[str, Any] = {
            "tables": [{**each, "rows": 2} for each in summary(divergences, ["people", "tags"])],
            "repaired": 0,
            "clean": False,
            "advice": advice(divergences),
        }
        shown = printed(views.divergence(answer["tables"])) + printed(views.verification_sum(answer))
        assert (
            "different: tags #same: 2 source rows produce this row: people ['1'] (tags) and people ['2'] (tags)"
            in shown
        )
        assert "no repair can mend" in shown
        assert "--repair" not in shown
        execute(database.dsn, ["UPDATE people SET note = '#other' WHERE id = 2"])
        await made.drain()
        await made.within(verifier.settle())
        assert {(each.target, each.kind, each.key) for each in verifier.divergences} == set(await differences(made))
        await repair(made.running, verifier.divergences, "test")
        await made.within(verifier.settle())
        assert verifier.clean
        assert await differences(made) == []


@pytest.mark.one_server
async def test_rows_that_come_to_give_one_row_after_the_pass_keep_the_writers_from_being_held(
    database: Database, tmp_path: Path
) -> None:
    create_small(database.dsn, "INSERT INTO people VALUES (1, 'a', '1', '#same'), (2, 'b', '2', '#other')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        assert await full_pass(made) == []
        verifier = made.running.verifier
        await made.within(verifier.settle_down())
        execute(database.dsn, ["UPDATE people SET note = '#same' WHERE id = 2"])
        await made.drain()
        await made.within(verifier.settle_down())
        assert [each.owners for each in verifier.divergences] == [(("tags", ("1",)), ("tags", ("2",)))]
        assert len(await verifier.final_check()) == 1
        execute(database.dsn, ["DELETE FROM people WHERE id = 1"])
        await made.drain()
        await made.within(verifier.settle_down())
        await repair(made.running, verifier.divergences, "test")
        await made.within(verifier.settle_down())
        assert verifier.clean, verifier.standing.text
        assert await differences(made) == []


def printed(shown: object) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


@pytest.mark.one_server
@pytest.mark.parametrize(("there", "strangers"), [(0, 1), (0, 30), (10, 21)])
async def test_no_repair_empties_a_table_unasked(
    database: Database, tmp_path: Path, there: int, strangers: int
) -> None:
    create_small(database.dsn, f"INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, {there}) i")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        many = f"INSERT INTO store.people SELECT i, 'x' || i, 1 FROM generate_series(901, {900 + strangers}) i"
        execute(database.dsn, [BEHIND, many])
        divergences = await full_pass(made)
        assert len(divergences) == strangers
        with pytest.raises(NotReadyError, match="because no source row produces them") as refused:
            await repair(made.running, divergences, "test")
        assert "--allow-emptying" in refused.value.remedy
        assert await count(made, "store.people") == there + strangers
        made.running.context.unseen.add("people")  # as if they had changed past the log: the daemon's own repair
        assert not (await made.within(compare(made.running))).clean
        assert await count(made, "store.people") == there + strangers
        assert not made.running.context.unseen
        assert not made.running.verifier.clean
        await repair(made.running, divergences, "test", emptying=True)
        assert await count(made, "store.people") == there
        assert await count(made, "_replicator.kept") == strangers
        assert await full_pass(made) == []


@pytest.mark.one_server
async def test_no_repair_empties_a_table_because_the_source_can_be_read_no_longer(
    database: Database, tmp_path: Path
) -> None:
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 30) i")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, [BEHIND, "UPDATE store.people SET name = 'spoiled'"])
        divergences = await full_pass(made)
        await made.drain()
        await made.running.write_gate.pause()  # what is deleted now is not applied before the repair
        execute(database.dsn, ["DELETE FROM people"])
        with pytest.raises(NotReadyError, match="would delete 30 of the rows of people"):
            await repair(made.running, divergences, "test")
        made.running.write_gate.resume()
        await made.drain()
        assert await count(made, "store.people") == 0


async def count(made: Engine, table: str) -> int:
    async with connection(made.target_dsn, "test") as opened:
        [(rows,)] = await (await opened.execute(f"SELECT count(*) FROM {table}".encode())).fetchall()
        return int(rows)
