"""Nothing freezes or vanishes in silence: what hangs on an old table is named by each command on the way to its end."""

import json
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.acceptance.house import House, house

__all__ = ["house"]

HANGING = """
CREATE SCHEMA reports;
CREATE TABLE visits (id integer PRIMARY KEY, person integer);
ALTER TABLE people ADD COLUMN visits integer NOT NULL DEFAULT 0;
CREATE VIEW reports.names AS SELECT id, name FROM people;
CREATE MATERIALIZED VIEW reports.count AS SELECT count(*) FROM people;
CREATE FUNCTION reports.longest() RETURNS integer BEGIN ATOMIC SELECT max(length(name)) FROM people; END;
CREATE FUNCTION count_visit() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN UPDATE public.people SET visits = visits + 1 WHERE id = NEW.person; RETURN NULL; END';
CREATE TRIGGER counter AFTER INSERT ON visits FOR EACH ROW EXECUTE FUNCTION count_visit();
ALTER TABLE visits ENABLE ROW LEVEL SECURITY;
CREATE POLICY known ON visits USING (EXISTS (SELECT FROM people WHERE id = person));
CREATE TABLE reports.letters (id integer PRIMARY KEY, person integer REFERENCES people);
CREATE PUBLICATION feed FOR TABLE people;
"""
NAMED = (
    "view reports.names",
    "materialized view reports.count",
    "function reports.longest()",
    "function public.count_visit() (called by the trigger counter on public.visits)",
    "policy known on public.visits",
    "letters_person_fkey of reports.letters (to public.people)",
    "publication feed",
)
STAYS = ("view reports.names", "materialized view reports.count", "function reports.longest()")


@pytest.mark.timeout(300)
def test_each_command_names_it(house: House) -> None:
    house.execute(HANGING)
    house.write_transforms((house.terminal.folder / "transforms.py").read_text() + LET_GO)
    found = house.terminal.run("check")
    assert found.code == 0, found.said
    assert_named(found.output, *NAMED)
    document = house.terminal.json("check")["consequences"]
    assert document["strategy"] is None
    assert {each["what"] for each in document["hanging"]} >= {each for each in NAMED if "letters" not in each}
    tried = house.terminal.run("dry-run")
    assert_named(tried.output, *NAMED, "with --strategy rename: public.people to public.people_old")
    with house.terminal.daemon() as daemon:
        daemon.until(lambda: house.phase() == "follow")
        rehearsed = house.terminal.run("cutover", "--wait", "--dry-run", "--strategy", "rename")
        assert rehearsed.code == 0, rehearsed.said
        assert_named(
            rehearsed.output, *NAMED, "public.people to public.people_old", "ACCESS EXCLUSIVE on public.people"
        )
        done = house.terminal.run("cutover", "--wait")
        assert done.code == 0, done.said
        assert_named(done.output, *STAYS, "publication feed")
        over = house.terminal.run("finalize", "--now", "--yes")
        assert over.code == 0, over.said
        assert_named(over.told, *STAYS, "policy known on public.visits", "function public.count_visit()")
    left = house.terminal.run("cleanup", "--dry-run")
    assert left.code == 3
    assert_named(left.output, "The old tables are still needed by: ", *STAYS, "feed (public.people)", "count_visit()")


LET_GO = """

migration.retire("people", column="visits", because="it is counted anew")
"""


def assert_named(text: str, *names: str) -> None:
    """Each is in it, wherever lines are broken."""
    found = " ".join(text.split()).lower()
    missing = [each for each in names if each.lower() not in found]
    assert not missing, text


@pytest.mark.timeout(240)
def test_a_cutover_that_waits_names_who_is_in_the_way(house: House) -> None:
    """In its last word, and in the status, while its attempts are too short to be seen."""
    with house.terminal.daemon() as daemon:
        daemon.until(lambda: house.terminal.json("status")["ready"])
        with psycopg.connect(house.dsn, application_name="night job") as busy, ThreadPoolExecutor() as beside:
            busy.execute("LOCK TABLE people IN ROW EXCLUSIVE MODE")
            who = f"process {busy.info.backend_pid} (role {busy.info.user}, night job): idle in transaction for "
            late = house.terminal.run("cutover", "--wait", "--timeout", "10", "--json")
            assert late.code != 0
            assert who in json.loads(late.output or late.messages)["error"]
            asked = beside.submit(house.terminal.run, "cutover", "--wait")  # goes on while it is looked at
            daemon.until(lambda: who in str(house.terminal.json("status")["waiting"]))
            assert who in " ".join(house.terminal.run("status").output.split())
            busy.rollback()
            assert asked.result().code == 0, asked.result().said
        assert house.terminal.json("status")["waiting"] == []
