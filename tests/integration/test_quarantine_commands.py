"""``replicator quarantine`` with a daemon as a process of its own, and old and new tables in two databases."""

import threading
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.house import OLD, House
from tests.acceptance.terminal import Daemon, Done
from tests.fix_postgres import Database

pytestmark = pytest.mark.one_server

SECRET = "a value of the row"


@pytest.fixture
def house(database: Database, other_database: Database, tmp_path: Path) -> House:
    made = House(database.dsn, tmp_path, slot=database.name, plugin=database.plugin, target_dsn=other_database.dsn)
    made.execute(OLD)
    return made


def new(house: House, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(house.terminal.settings["target_dsn"], autocommit=True) as connected:
        cursor = connected.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def phase(house: House) -> object:
    ((there,),) = new(house, "SELECT to_regclass('_replicator.state') IS NOT NULL")
    found = new(house, "SELECT phase FROM _replicator.state") if there else []
    return found[0][0] if found else None


def listed(house: House, *options: str) -> list[tuple[object, ...]]:
    """Number, pipeline, transform and key of each entry."""
    found = house.terminal.json("quarantine", "list", *options)["entries"]
    return [(each["id"], each["pipeline"], each["transform"], each["key"]) for each in found]


def done(result: Done, code: int = 0) -> str:
    assert result.code == code, result.said
    assert SECRET not in result.said
    return " ".join(result.said.split())


def gate(house: House) -> tuple[bool, str]:
    """As the daemon has reported it."""
    ((found,),) = new(house, "SELECT jsonb_path_query_first(document, '$.gates[*] ? (@.name == \"quarantine\")') "
                             "FROM _replicator.status")  # fmt: skip
    return (found["ok"], found["detail"]) if isinstance(found, dict) else (False, "")


def standing(house: House) -> list[tuple[object, ...]]:
    """Pipeline and key, past the command: it takes a while."""
    query = "SELECT pipeline, source_key FROM _replicator.quarantine WHERE discarded_at IS NULL ORDER BY id"
    return new(house, query) + house.rows(query)


@pytest.mark.timeout(400)
def test_from_the_first_refused_row_to_the_last(house: House) -> None:
    terminal = house.terminal
    assert terminal.json("quarantine", "list") == {"entries": [], "total": 0}
    refused = terminal.run("quarantine", "discard", "1", "--because", "why")
    assert "No daemon runs." in done(refused, 3)
    assert "No daemon runs." in done(terminal.run("quarantine", "retry", "all"), 3)
    house.execute(f"UPDATE people SET name = NULL, note = '{SECRET}' WHERE id IN (7, 8, 9)")
    with terminal.daemon() as daemon:
        daemon.until(lambda: phase(house) == "follow")
        numbers = look_at_them(house)
        try_them_again(house, daemon, numbers)
        give_one_up_while_a_cutover_waits(house, daemon, numbers)
        on_the_way_back(house, daemon)
        assert daemon.stop() == 0
    assert len(listed(house, "--all")) == 2, "without a daemon; of both directions"


def look_at_them(house: House) -> list[str]:
    numbers = [str(number) for number, *_ in listed(house)]
    assert [rest for _, *rest in listed(house)] == [["forward", "person", [str(key)]] for key in (7, 8, 9)]
    shown = done(house.terminal.run("quarantine", "list", "--limit", "2"))
    assert 'null value in column "name"' in shown
    assert "3 rows. 1 more is not shown: see --limit." in shown
    for words in ([numbers[1]], ["person", "8"]):
        one = done(house.terminal.run("quarantine", "show", *words))
        assert "people 8" in one
        assert f"replicator quarantine discard {numbers[1]}" in one
    done(house.terminal.run("quarantine", "show", "person", "1"), 1)
    return numbers


def try_them_again(house: House, daemon: Daemon, numbers: list[str]) -> None:
    said = done(house.terminal.run("quarantine", "retry", "all"), 1)
    assert "0 of 3 rows resolved." in said
    assert 'person 7: Postgres refused a row: null value in column "name"' in said
    assert house.terminal.json("quarantine", "show", numbers[0])["entries"][0]["attempts"] == 2
    assert "There is no transform nobody." in done(
        house.terminal.run("quarantine", "retry", "--transform", "nobody"), 2
    )
    assert "discarded already: 999." in done(house.terminal.run("quarantine", "retry", "999"), 2)
    # The daemon sees that the table has changed, and mends all rows itself; it must not while one alone is tried.
    with psycopg.connect(house.terminal.settings["target_dsn"]) as holder:
        holder.execute("LOCK TABLE _replicator.definitions IN EXCLUSIVE MODE")
        new(house, "ALTER TABLE store.people ALTER name DROP NOT NULL")
        assert "1 of 1 row resolved." in done(house.terminal.run("quarantine", "retry", numbers[0]))
        assert new(house, "SELECT id FROM store.people WHERE id IN (7, 8, 9)") == [(7,)]
        new(house, "ALTER TABLE store.people ADD CHECK (name IS NOT NULL) NOT VALID")
    house.execute("UPDATE people SET name = 'mended' WHERE id IN (7, 9)")
    daemon.until(lambda: standing(house) == [("forward", '["8"]')])
    new(house, "ALTER TABLE store.people VALIDATE CONSTRAINT people_name_check")


def give_one_up_while_a_cutover_waits(house: House, daemon: Daemon, numbers: list[str]) -> None:
    answers: list[Done] = []
    waiting = threading.Thread(target=lambda: answers.append(house.terminal.run("cutover", "--wait")))
    daemon.until(lambda: gate(house) == (False, "person: 1; see `replicator quarantine list`"))
    waiting.start()
    daemon.until(lambda: new(house, "SELECT progress->>'step' FROM _replicator.commands WHERE command = 'cutover'")
                 == [("waiting for the gates",)])  # fmt: skip
    assert "1 row discarded." in done(house.terminal.run("quarantine", "discard", numbers[1], "--because", "a ghost"))
    waiting.join()
    done(answers[0])
    assert listed(house) == []
    (entry,) = house.terminal.json("quarantine", "list", "--all")["entries"]
    assert (entry["discarded"]["because"], entry["key"]) == ("a ghost", ["8"])
    assert "@" in entry["discarded"]["by"]
    ((details,),) = new(house, "SELECT details FROM _replicator.journal WHERE event = 'discarded'")
    assert isinstance(details, dict)
    assert details["key"] == ["8"]


def on_the_way_back(house: House, daemon: Daemon) -> None:
    house.execute("ALTER TABLE people ADD CHECK (note <> 'new words') NOT VALID")
    new(house, "INSERT INTO store.people VALUES (900, 'x', 'new words'), (901, 'y', NULL)")
    daemon.until(lambda: house.rows("SELECT id FROM people WHERE id >= 900") == [(901,)])
    daemon.until(lambda: standing(house) == [("reverse", '["900"]')])
    ((number, *rest),) = listed(house)
    assert rest == ["reverse", "old_person", ["900"]]
    daemon.until(lambda: gate(house)[0] is False)
    done(house.terminal.run("quarantine", "discard", str(number), "--because", "the old words are lost"))
    daemon.until(lambda: gate(house) == (True, "empty, save for 1 discarded"))
    verified = house.terminal.run("verify")
    assert "Not compared: 1 discarded" in done(verified)
    assert "1 discarded" in done(house.terminal.run("status"))
    assert "discarded already" in done(house.terminal.run("quarantine", "discard", str(number), "--because", "x"), 2)
    details = new(house, "SELECT details->>'because' FROM _replicator.journal WHERE event = 'discarded' ORDER BY id")
    assert details == [("a ghost",), ("the old words are lost",)]
    new(house, "UPDATE store.people SET name = 'other' WHERE id = 900")
    daemon.until(lambda: standing(house) == [("reverse", '["900"]')])
    done(house.terminal.run("quarantine", "discard", str(number), "--because", "still"))
