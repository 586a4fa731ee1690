"""No value of a row leaves: a canary stands in every column that is no key, and in nothing that anybody can read.

The rows are refused in as many ways as there are: by transforms, by types, by constraints, by functions of the
application's that quote them. What is searched: the log, as text and as JSON, with ``--debug``; each command, as text
and as JSON; the HTTP pages; the control tables; what hooks are given; the processes, and what their sessions run.
"""

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import psycopg
import pytest
from psycopg import sql

from replicator.demo.embedded import HOST, free_port
from tests.acceptance.terminal import Terminal
from tests.fix_postgres import Database
from tests.waiting import wait_until

pytestmark = pytest.mark.one_server

CANARY = "kanari4711"

OLD = """
CREATE TABLE people (id integer PRIMARY KEY, email text, age text, note text, doc jsonb);
CREATE TABLE notes (id integer PRIMARY KEY, body text);
INSERT INTO people SELECT g, '{canary}@' || g, '7', '{canary}', '{{"a": "{canary}"}}' FROM generate_series(1, 400) g;
INSERT INTO notes SELECT g, '{canary}' || g FROM generate_series(1, 20) g;
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS store;
CREATE OR REPLACE FUNCTION store.refuse(id integer, email text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    CASE id
    WHEN 11 THEN RAISE 'bad %', email;
    WHEN 12 THEN RAISE 'bad %', email USING ERRCODE = '23514', CONSTRAINT = email, COLUMN = email, TABLE = email;
    WHEN 13 THEN RAISE 'bad %', email USING ERRCODE = '42P01', HINT = email, DETAIL = email;
    WHEN 14 THEN RAISE 'bad %', email USING ERRCODE = '22000', DATATYPE = email, SCHEMA = email;
    WHEN 15 THEN PERFORM email::regclass;
    WHEN 16 THEN EXECUTE email;
    WHEN 17 THEN PERFORM email::integer;
    WHEN 18 THEN RAISE 'bad %', email USING ERRCODE = '54000';
    WHEN 19 THEN RAISE 'bad %', email USING ERRCODE = '21000';
    WHEN 20 THEN RAISE 'bad %', email USING ERRCODE = 'ZX001';
    ELSE RETURN true;
    END CASE;
    RETURN true;
END $$;
CREATE TABLE IF NOT EXISTS store.people (
    id integer PRIMARY KEY, email text NOT NULL CHECK (store.refuse(id, email)), age smallint CHECK (age < 200),
    note varchar(12), doc jsonb,
    CHECK (id <> 30 OR email::regclass IS NOT NULL)
);
CREATE TABLE IF NOT EXISTS store.notes (id integer PRIMARY KEY, body text);
"""
INDEXES = """
CREATE UNIQUE INDEX IF NOT EXISTS people_email ON store.people (lower(email));
"""
TRANSFORMS = """
from replicator import Migration

migration = Migration("small", old="public", new="store")


class Odd(Exception):
    def __repr__(self):
        return self.args[0]


class Nasty:
    def __init__(self, text):
        self.text = text

    def __str__(self):
        raise ValueError(self.text)

    __repr__ = __str__


@migration.transform(source="people", into="people", key=lambda old: old["id"])
def person(old):
    email, note = old["email"], old["note"]
    match old["id"]:
        case 1: raise LookupError(email)
        case 2: raise Odd(email)
        case 3:
            try:
                raise KeyError(email)
            except KeyError as error:
                raise ValueError(email) from error
        case 4: return {**old, "email": None}
        case 5: return {**old, "age": email}
        case 6: return {**old, "age": 10**9}
        case 7: return {**old, "note": email * 20}
        case 8: return {**old, "note": email + chr(0)}
        case 9: return {**old, "note": chr(0xD800) + email}
        case 10: return {**old, "note": Nasty(email)}
        case 21: return {**old, "doc": Nasty(email)}
        case 22: return {**old, "doc": {"a": {email}}}
        case 23 if note.endswith("!"): return {**old, "email": "TWICE" + email[:10]}
        case 24 if note.endswith("!"): return {**old, "email": "twice" + email[:10]}
    return dict(old)


@migration.reverse(source="people", into="people", key=lambda new: new["id"])
def old_person(new):
    return {name: new[name] for name in ("id", "email", "note", "doc")} | {"age": str(new["age"])}


@migration.transform(source="notes", into="notes", key=lambda old: old["id"])
def note(old):
    return dict(old)


@migration.reverse(source="notes", into="notes", key=lambda new: new["id"])
def old_note(new):
    return dict(new)
"""

REFUSED = {*range(1, 23), 30}  # and one of 23 and 24, whose unique value becomes the same
COMMANDS = [
    ("check",), ("dry-run",), ("status",), ("journal",), ("quarantine", "list", "--all"),
    ("quarantine", "show", "person", "11"), ("verify", "--repair"), ("smoke",), ("cutover", "--timeout", "1"),
]  # fmt: skip


AS_JSON = [("dry-run",), ("status",), ("journal",), ("quarantine", "list"), ("verify",)]


class Watched:
    """The house of the canary: a database, a folder with the migration, and all that has been said there."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.http = f"{HOST}:{free_port()}"
        self.given = folder / "given-to-hooks"
        self.terminal = Terminal(
            folder,
            {
                "source_dsn": database.dsn, "http_listen": self.http, "ready_for": "0.2", "slot": database.name,
                "publication": database.name, "plugin": database.plugin, "hook_command": f"cat >> {self.given}",
            },
        )  # fmt: skip
        (folder / "sql" / "new").mkdir(parents=True)
        (folder / "sql" / "new" / "10_tables.sql").write_text(NEW)
        (folder / "sql" / "new" / "20_indexes.sql").write_text(INDEXES)
        (folder / "transforms.py").write_text(TRANSFORMS)
        self.execute(OLD.format(canary=CANARY))

    def execute(self, statements: str) -> None:
        with psycopg.connect(self.database.dsn, autocommit=True) as connected:
            connected.execute(statements.encode())

    def refused(self) -> set[str]:
        """The keys in quarantine."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connected:
            found = connected.execute("SELECT to_regclass('_replicator.quarantine') IS NOT NULL").fetchone()
            if found != (True,):
                return set()
            rows = connected.execute("SELECT source_key FROM _replicator.quarantine").fetchall()
        return {str(each) for (key,) in rows for each in json.loads(key)}

    def until_refused(self, daemon: subprocess.Popen[bytes], said: list[str]) -> None:
        """Wait until all that is to be refused is."""

        def alive() -> None:
            assert daemon.poll() is None, "".join(said)

        wanted = {str(each) for each in REFUSED}
        wait_until(lambda: wanted <= self.refused(), alive=alive, said=lambda: (wanted - self.refused(), "".join(said)))

    def phase(self) -> str:
        return str(self.terminal.json("status").get("phase"))

    def control_tables(self) -> str:
        """All that stands in them, save for the rows that a repair keeps, which are there to hold values."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connected:
            names = connected.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = '_replicator'::regnamespace "
                "AND relkind IN ('r', 'p', 'v') AND relname <> 'kept'"
            ).fetchall()
            texts = [
                connected.execute(
                    sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier("_replicator", name))
                ).fetchall()
                for (name,) in names
            ]
        assert len(names) > 10
        return str(texts)

    def page(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except HTTPError as error:  # a gate is shut, and the page says which
            return error.read().decode()


@contextlib.contextmanager
def what_processes_show(house: Watched) -> Iterator[list[str]]:
    """Meanwhile, what anybody on this machine sees of the processes, and on the server of their sessions."""
    seen: list[str] = []
    ended = threading.Event()

    def look() -> None:
        with psycopg.connect(house.database.dsn, autocommit=True) as connected:
            while not ended.wait(0.2):
                found = connected.execute(
                    "SELECT application_name, query FROM pg_stat_activity WHERE application_name LIKE 'replicator %'"
                ).fetchall()
                seen.extend(str(each) for each in found)
                for command_line in Path("/proc").glob("[0-9]*/cmdline"):
                    with contextlib.suppress(OSError):
                        seen.append(command_line.read_text(errors="replace"))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


@contextlib.contextmanager
def daemon_on_a_terminal(house: Watched, said: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """``replicator --debug run`` on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "replicator", "--debug", "run"],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        cwd=house.terminal.folder, env=house.terminal.environment({}),
    )  # fmt: skip
    os.close(theirs)

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(ours, 65536):
                said.append(data.decode(errors="replace"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)
        reader.join()
        os.close(ours)


def change_all(house: Watched) -> None:
    """Each row comes by the stream too."""
    house.execute(f"UPDATE people SET note = '{CANARY}!', doc = jsonb_build_object('b', email)")
    house.execute(f"UPDATE notes SET body = body || '{CANARY}'")
    house.execute(  # past the guard: it diverges
        "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets; "
        f"UPDATE store.notes SET body = '{CANARY} by another hand' WHERE id = 3"
    )


@pytest.mark.timeout(400)
def test_no_value_of_a_row_leaves(database: Database, tmp_path: Path) -> None:
    house = Watched(database, tmp_path)
    on_terminal: list[str] = []
    pages: list[str] = []
    house.terminal.run("check", "--json")
    house.terminal.run("dry-run")
    with what_processes_show(house) as seen:
        with daemon_on_a_terminal(house, on_terminal) as process:
            house.until_refused(process, on_terminal)
        with house.terminal.daemon("--debug") as running:
            running.until(lambda: house.phase() == "follow")
            change_all(house)
            running.until(lambda: {str(each) for each in REFUSED} <= house.refused())
            for each in COMMANDS:
                house.terminal.run("--debug", *each)
            for each in AS_JSON:
                house.terminal.run(*each, "--json")
            pages = [house.page(path) for path in ("/status", "/metrics", "/healthz", "/readyz")]
            running.stop()
    said = "".join(house.terminal.said)
    assert "rows quarantined" in said
    sinks = {
        "the log on a terminal": "".join(on_terminal),
        "the log as JSON, and the commands": said,
        "the HTTP pages": "".join(pages),
        "the control tables": house.control_tables(),
        "what hooks are given": house.given.read_text(),
        "processes and sessions": "".join(seen),
    }
    assert all(sinks.values())
    for sink, text in sinks.items():
        places = [text[max(0, at - 300) : at + 40] for at in range(len(text)) if text.startswith(CANARY, at)]
        assert not places, f"{sink}: {places[:3]}"
