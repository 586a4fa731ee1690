"""Whatever the environment, the role, the database or a service file say, every session of ours has its settings."""

import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from replicator import Migration, Row
from replicator.demo.connecting import connect as connect_demo
from replicator.errors import CheckError, ConnectionLostError, ReplicatorError
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.catalog.operators import equal, operator
from replicator.postgres.session.connect import connect, connection, identifier, translated
from replicator.postgres.session.pins import GIVEN, NEWER_PINS, PINS
from replicator.postgres.wire.walsender import open_walsender
from tests.checking import OLD, check_with, follow_remedy, tiny
from tests.engine import Engine, engine, execute
from tests.fix_postgres import Database, MakeCluster, Running, _choices, fresh_database

BENT: Final = {
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "array_nulls": "off",
    "backslash_quote": "on",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "client_min_messages": "error",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "exit_on_error": "on",
    "extra_float_digits": "-3",
    "gin_fuzzy_search_limit": "3",
    "idle_in_transaction_session_timeout": "1h",
    "idle_session_timeout": "1h",
    "jit": "on",
    "lc_monetary": "POSIX",
    "lc_numeric": "POSIX",
    "lc_time": "POSIX",
    "lock_timeout": "1s",
    "quote_all_identifiers": "on",
    "row_security": "on",
    "search_path": "public",
    "standard_conforming_strings": "off",
    "statement_timeout": "1s",
    "synchronous_commit": "off",
    "timezone_abbreviations": "India",
    "transform_null_equals": "on",
    "xmlbinary": "hex",
    "xmloption": "document",
}
"""One wrong value for each setting that any role may set."""

PRIVILEGED: Final = {"session_replication_role": "replica", "zero_damaged_pages": "on", "ignore_checksum_failure": "on"}

ENVIRONMENT: Final = {"TimeZone": "PGTZ", "DateStyle": "PGDATESTYLE", "client_encoding": "PGCLIENTENCODING"}
"""What libpq takes from variables of their own, and sends after the rest."""

WANTED: Final = {**PINS, **{name: value for pins in NEWER_PINS.values() for name, value in pins.items()}}

Kind = Literal["SQL", "text", "walsender", "demo"]
Where = Literal["role", "database", "role in database", "environment", "service file", "options"]


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role that may replicate, and is no superuser."""
    name = f"{database.name}_bent"
    with database.connect() as opened:
        opened.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'secret'".encode())
        opened.execute(f"GRANT ALL ON DATABASE {database.name} TO {name}".encode())
    yield name
    with database.connect() as opened:
        opened.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())


def as_role(database: Database, role: str, **others: str) -> str:
    return make_conninfo(database.dsn, user=role, password="secret", **others)


def bent(version: int) -> dict[str, str]:
    newer = {name: "1h" for since, pins in NEWER_PINS.items() for name in pins if version * 10000 >= since}
    return BENT | newer


async def shown(kind: Kind, dsn: str) -> dict[str, str]:
    """The settings of a session of ours."""
    question = "SELECT name, setting FROM pg_catalog.pg_settings"
    if kind == "demo":
        with connect_demo(dsn) as opened:
            return dict(opened.execute(question))
    session = await (open_walsender(dsn) if kind == "walsender" else connect(dsn, "test", text=kind == "text"))
    async with session:
        return dict(await (await session.execute(question)).fetchall())


def test_there_is_a_wrong_value_for_each_setting() -> None:
    assert set(BENT) | set(PRIVILEGED) == set(PINS) | set(GIVEN)


@pytest.mark.two_servers
@pytest.mark.parametrize("where", ["role", "database", "role in database", "environment", "service file", "options"])
async def test_a_session_has_its_settings(
    database: Database, role: str, where: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, wrong = as_role(database, role), bent(database.version)
    listed = " ".join(f"-c {name}={value}" for name, value in wrong.items() if name != "client_encoding")
    match where:
        case "environment":
            for name, variable in ENVIRONMENT.items():
                monkeypatch.setenv(variable, wrong[name])
            monkeypatch.setenv("PGOPTIONS", listed)
        case "service file":
            (tmp_path / "services").write_text(f"[bent]\noptions={listed}\nclient_encoding=LATIN1\n")
            monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
            dsn = as_role(database, role, service="bent")
        case "options":
            dsn = as_role(database, role, options=listed, client_encoding="LATIN1")
        case _:
            subjects = {"role": f"ROLE {role}", "database": f"DATABASE {database.name}"}
            subject = subjects.get(where, f"ROLE {role} IN DATABASE {database.name}")
            execute(database.dsn, [f"ALTER {subject} SET {name} = '{value}'" for name, value in wrong.items()])

    with psycopg.connect(dsn, autocommit=True) as plain:
        assert plain.execute("SHOW TimeZone").fetchone() == ("Asia/Kathmandu",), "or the case would show nothing"
    kinds: tuple[Kind, ...] = ("SQL", "text", "walsender", "demo")
    for kind in kinds:
        settings = await shown(kind, dsn)
        for name in wrong:
            assert settings[name] == WANTED.get(name, "on"), f"{name} on {kind}"


@pytest.mark.one_server
@pytest.mark.parametrize("name", PRIVILEGED)
async def test_what_only_a_superuser_may_set(database: Database, role: str, name: str) -> None:
    """A superuser's session gets it; any other's is refused, with what to do."""
    execute(database.dsn, [f"ALTER ROLE {role} SET {name} = '{PRIVILEGED[name]}'"])
    kinds: tuple[Kind, ...] = ("SQL", "text", "walsender", "demo")
    for kind in kinds:
        with pytest.raises(CheckError, match=f"setting {name} is '{PRIVILEGED[name]}'") as refused:
            await shown(kind, as_role(database, role))
        assert f'ALTER ROLE "{role}" RESET {name};' in refused.value.remedy
    execute(database.dsn, [f"ALTER ROLE {role} SUPERUSER"])
    for kind in kinds:
        assert (await shown(kind, as_role(database, role)))[name] in GIVEN[name]
    execute(database.dsn, [f"ALTER ROLE {role} NOSUPERUSER", f"ALTER ROLE {role} RESET {name}"])
    for kind in kinds:
        await shown(kind, as_role(database, role))


@pytest.mark.one_server
async def test_check_says_that_foreign_keys_would_not_be_checked(database: Database, role: str, tmp_path: Path) -> None:
    with database.connect() as opened:
        opened.execute(OLD)
        opened.execute(f"ALTER ROLE {role} SET session_replication_role = replica".encode())
    found = await check_with(tiny(tmp_path), source_dsn=database.dsn, target_dsn=as_role(database, role))
    assert found["target.connection"].outcome == "fail"
    assert "session_replication_role is 'replica'" in found["target.connection"].detail
    follow_remedy(database.dsn, found["target.connection"])
    found = await check_with(tiny(tmp_path), source_dsn=database.dsn, target_dsn=as_role(database, role))
    assert found["target.connection"].outcome == "pass"


@pytest.mark.one_server
@pytest.mark.parametrize("where", ['ROLE "{role}"', 'DATABASE "{database}"', 'ROLE "{role}" IN DATABASE "{database}"'])
async def test_a_role_that_may_only_read(database: Database, role: str, where: str) -> None:
    subject = where.format(role=role, database=database.name)
    execute(database.dsn, [f"ALTER {subject} SET default_transaction_read_only = on"])
    kinds: tuple[Kind, ...] = ("SQL", "walsender", "demo")
    for kind in kinds:
        with pytest.raises(CheckError, match="may only read") as refused:
            await shown(kind, as_role(database, role))
        assert refused.value.remedy.endswith(f"ALTER {subject} RESET default_transaction_read_only;")
    await (await connect(as_role(database, role), "test", may_be_read_only=True)).close()
    with database.connect() as opened:  # read-only as well, if it is the database
        for line in refused.value.remedy.splitlines()[1:]:
            opened.execute(line.encode())
    for kind in kinds:
        await shown(kind, as_role(database, role))


@pytest.mark.one_server
async def test_a_standby_is_said_plainly(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.stop()
    (cluster.folder / "data" / "standby.signal").touch()
    cluster.start()
    kinds: tuple[Kind, ...] = ("SQL", "walsender")
    for kind in kinds:
        with pytest.raises(ConnectionLostError, match="is a standby"):
            await shown(kind, cluster.dsn())


@pytest.mark.one_server
@pytest.mark.parametrize("where", ["role", "options"])
async def test_a_session_acts_as_who_logs_in(database: Database, role: str, where: str) -> None:
    """Else the control tables would belong to another role, which could forge what stands in them."""
    execute(database.dsn, [f"GRANT pg_monitor TO {role}"])
    dsn = as_role(database, role, options="-c role=pg_monitor") if where == "options" else as_role(database, role)
    if where == "role":
        execute(database.dsn, [f"ALTER ROLE {role} SET role = pg_monitor"])
    with psycopg.connect(dsn, autocommit=True) as plain:
        assert plain.execute("SELECT current_user").fetchone() == ("pg_monitor",), "or the case would show nothing"
    for text in (False, True):
        async with await connect(dsn, "test", text=text) as session:
            assert await (await session.execute("SELECT current_user")).fetchone() == (role,)
    async with await open_walsender(dsn) as session:
        assert await (await session.execute("SELECT current_user")).fetchone() == (role,)
    with connect_demo(dsn) as opened:
        assert opened.execute("SELECT current_user").fetchone() == (role,)


@pytest.mark.one_server
async def test_a_policy_hides_no_row_but_is_an_error(database: Database, role: str) -> None:
    """An empty answer would be taken for deleted rows."""
    execute(
        database.dsn,
        [
            "CREATE TABLE public.hidden (id integer PRIMARY KEY)",
            "INSERT INTO public.hidden VALUES (1)",
            f"GRANT ALL ON public.hidden TO {role}",
            "ALTER TABLE public.hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY none ON public.hidden USING (false)",
        ],
    )
    async with connection(as_role(database, role), "test") as opened:
        for statement in (b"SELECT FROM public.hidden", b"DELETE FROM public.hidden"):
            with pytest.raises(ReplicatorError, match="row-level security"), translated():
                await opened.execute(statement)


# ---- what it means for rows

MOMENTS: Final = """
CREATE TABLE public.moments (id integer PRIMARY KEY, at timestamptz, took interval, day date, said text, share float8);
INSERT INTO public.moments VALUES
    (1, '2024-03-31 12:00:00+00', '-1 day 2 hours', '2024-03-04', '05.06.2024', 0.1::float8 + 0.2::float8);
"""
NEW_MOMENTS: Final = """
CREATE SCHEMA IF NOT EXISTS later;
CREATE TABLE IF NOT EXISTS later.moments
    (id integer PRIMARY KEY, at timestamp, took interval, day date, said text, share float8);
"""


def moments(folder: Path) -> Migration:
    """Values whose text hangs on the session's settings; an instant becomes a timestamp without time zone."""
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "10_tables.sql").write_text(NEW_MOMENTS)
    migration = Migration("moments", old="public", new="later", sql=folder)

    @migration.transform(source="moments", into="moments", key=lambda old: old["id"])
    def moment(old: Row) -> dict[str, object]:
        return dict(old)

    return migration


@pytest.mark.parametrize("where", ["environment", "role"])
async def test_instants_are_the_same_everywhere(
    database: Database, role: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database.dsn, [MOMENTS])
    if where == "environment":
        for name, variable in ENVIRONMENT.items():
            monkeypatch.setenv(variable, BENT[name])
    else:
        execute(database.dsn, [f"ALTER DATABASE \"{database.name}\" SET {name} = '{BENT[name]}'" for name in BENT])
    async with engine(database, moments(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO public.moments SELECT 2, at, took, day, said, share FROM public.moments"])
        await made.drain()
        assert await held(made) == [
            (1, "2024-03-31 12:00:00", "-1 days +02:00:00", "2024-03-04", "05.06.2024", "0.30000000000000004"),
            (2, "2024-03-31 12:00:00", "-1 days +02:00:00", "2024-03-04", "05.06.2024", "0.30000000000000004"),
        ]


async def held(made: Engine) -> list[tuple[object, ...]]:
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(connection(made.target_dsn, "test"))
        cursor = await opened.execute(
            "SELECT id, at::text, took::text, day::text, said, share::text FROM later.moments ORDER BY id"
        )
        return list(await cursor.fetchall())


# ---- operators

COMPARED: Final = """
CREATE SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE EXTENSION ltree SCHEMA ext;
CREATE TYPE public.mood AS ENUM ('low', 'high');
CREATE TYPE public.pair AS (a integer, b ext.citext);
CREATE TYPE public.span AS RANGE (subtype = ext.ltree);
CREATE DOMAIN public.email AS ext.citext;
CREATE DOMAIN public.login AS public.email CHECK (value <> '');
CREATE TABLE public.compared (
    id bigint, small smallint, word varchar(9), fixed char(3), "Email" ext.citext, login public.login, path ext.ltree,
    mood public.mood, pair public.pair, span public.span, emails ext.citext[], vector oidvector, moment timestamptz,
    transaction xid, document json, point point, PRIMARY KEY (id, "Email", path, mood)
);
"""


@pytest.fixture
def contrib(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    """A database on the first server that has the extensions of Postgres' own."""
    for choice in _choices(request.config):
        with fresh_database(_running.server(choice)) as made:
            with made.connect() as opened:
                found = opened.execute("SELECT FROM pg_available_extensions WHERE name IN ('citext', 'ltree')")
            if found.rowcount == 2:
                yield made
                return
    pytest.skip("no server has citext and ltree")


async def test_a_column_has_the_operators_of_its_default_class(contrib: Database) -> None:
    database = contrib
    execute(database.dsn, [COMPARED])
    async with connection(database.dsn, "test") as opened:
        table = (await read_tables(opened, "public"))["compared"]
        in_ext = {each.name for each in table.columns if each.operators.schema == "ext"}
        assert in_ext == {"Email", "login", "path"}
        assert all(each.operators == replace(each.operators, schema="pg_catalog") or each.name in in_ext
                   for each in table.columns)  # fmt: skip
        for each in table.columns:
            if each.name in {"document", "point"}:
                continue  # they cannot be compared
            name = identifier(each.name)
            cursor = await opened.execute(
                sql.SQL("SELECT count(*) FROM public.compared WHERE {}").format(equal(name, name, each.operators))
            )
            assert await cursor.fetchone() == (0,)
            if each.name != "transaction":
                for strategy in ("less", "less_or_equal", "greater"):
                    named = operator(each.operators, getattr(each.operators, strategy))
                    await opened.execute(sql.SQL("SELECT FROM public.compared WHERE {0} {1} {0}").format(name, named))
        cursor = await opened.execute(
            sql.SQL("SELECT 'A'::ext.citext {} 'a'::ext.citext").format(
                operator(table.by_name["login"].operators, table.by_name["login"].operators.equal)
            )
        )
        assert await cursor.fetchone() == (True,)


def test_no_variable_of_libpq_is_left_out() -> None:
    """libpq sends a setting for each of these; a new one would need a place above."""
    from psycopg import pq

    sent = {each.envvar.decode() for each in pq.Conninfo.get_defaults() if each.envvar}
    assert {"PGCLIENTENCODING", "PGOPTIONS"} <= sent
    assert not {name for name in os.environ if name in ENVIRONMENT.values()}, "the tests' own must not bend them"
