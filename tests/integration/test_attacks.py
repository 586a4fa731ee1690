"""What a role tries that has only PUBLIC's rights, and the application's, which owns the old tables: in each phase."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from replicator import Lookup, Query
from replicator.errors import CheckError, DatabaseError, LeaseError
from replicator.follow.transaction_buffer import Batch
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.control import lease, removal
from replicator.postgres.control.control import daemon_alive, install
from replicator.postgres.control.lease import Lease
from replicator.postgres.control.ownership import notify_of_owner
from replicator.postgres.locking import locks
from replicator.postgres.session.connect import Connection, connection
from replicator.preflight import preflight
from replicator.runbook import finish
from replicator.runbook.finish import abort, finalize
from replicator.switchover import handover
from replicator.switchover.phases import COMPLETION, CUTOVER, OPENING, Phase
from tests.checking import follow_remedy
from tests.engine import Engine
from tests.fix_postgres import Database
from tests.roles import Roles, identity, readme_roles
from tests.sessions import daemon
from tests.statements import ORIGINS, OURS
from tests.waiting import until

pytestmark = pytest.mark.two_servers


@pytest.fixture
def roles(database: Database) -> Iterator[Roles]:
    with readme_roles(database) as made:
        yield made


FOR_ALL: Final = {"active_schema", "use_new_schema"}
"""What PUBLIC may call in our schemas."""

EVIL: Final = """
CREATE FUNCTION pg_temp.evil(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'evil runs as %', current_user USING ERRCODE = 'EV111'; END $$;
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.evil(VALUE::pg_catalog.text));
CREATE TYPE pg_temp.pair AS (one integer, two integer);
CREATE FUNCTION pg_temp.spell(pg_temp.pair) RETURNS pg_catalog.text LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'evil runs as %', current_user USING ERRCODE = 'EV111'; END $$;
CREATE CAST (pg_temp.pair AS pg_catalog.text) WITH FUNCTION pg_temp.spell(pg_temp.pair) AS IMPLICIT;
CREATE TEMP TABLE bait (id pg_temp.pair, n integer);
"""


async def phases(roles: Roles, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Any]]:
    """The phases one after the other, with the session of the daemon; each lasts until the next is asked for."""
    yield "before", None
    roles.superuser(
        f"GRANT EXECUTE ON FUNCTION {', '.join(ORIGINS)} TO {roles.replicator}",
        "INSERT INTO public.t SELECT i, 'v' || i FROM generate_series(1, 20) AS i",
    )
    held = asyncio.Event()
    backfill = Pipeline.backfill

    async def late(self: Pipeline) -> Any:
        await held.wait()
        return await backfill(self)

    monkeypatch.setattr(Pipeline, "backfill", late)
    settings, migration = roles.settings(), identity(folder)
    async with daemon(settings, migration) as running:
        await running.until(lambda: running.session.phase.now == Phase.BACKFILL)
        yield "backfill", running
        held.set()
        await running.ready()
        yield "follow", running
        await running.session.switchovers.run(OPENING, running.report)
        yield "rolling", running
        await running.session.switchovers.run(COMPLETION, running.report)
        await running.clean()
        yield "soak", running
    await finalize(settings, migration, running.report, now=True)
    yield "finalized", None


def refused(connected: "psycopg.Connection[Any]", statement: str) -> bool:
    """Whether a statement fails for want of a privilege; any other outcome is shown."""
    try:
        connected.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def names_of(roles: Roles, query: str) -> list[str]:
    with roles.database.connect() as opened:
        return [str(row[0]) for row in opened.execute(query.encode()).fetchall()]


TABLES: Final = f"SELECT oid::regclass FROM pg_class WHERE relnamespace IN ({OURS}) AND relkind IN ('r', 'v')"
SEQUENCES: Final = f"SELECT oid::regclass FROM pg_class WHERE relnamespace IN ({OURS}) AND relkind = 'S'"
ROUTINES: Final = (
    f"SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace IN ({OURS}) AND prorettype {{}} 'trigger'::regtype"
)
NAMED: Final = (
    "SELECT FROM {}", "INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}", "TRUNCATE {}", "COPY {} TO STDOUT",
    "LOCK TABLE {} IN ACCESS SHARE MODE", "LOCK TABLE {} IN EXCLUSIVE MODE", "PREPARE a AS SELECT FROM {}",
    "PREPARE b AS DELETE FROM {}", "PREPARE c AS SELECT FROM {} FOR UPDATE", "DECLARE d CURSOR FOR SELECT FROM {}",
    "CREATE TEMP VIEW e AS SELECT FROM {}", "CREATE TEMP TABLE f (LIKE {})", "CREATE TEMP TABLE g () INHERITS ({})",
    "CREATE TEMP TABLE h (id boolean REFERENCES {})", "CREATE TEMP TABLE i (c {})", "CREATE TEMP TABLE i (c {}[])",
    "CREATE RULE j AS ON INSERT TO {} DO INSTEAD NOTHING", "CREATE POLICY k ON {}", "CREATE INDEX ON {} ((1))",
    "CREATE STATISTICS l ON only_row, since FROM {}", "COMMENT ON TABLE {} IS 'mine'", "GRANT SELECT ON {} TO PUBLIC",
    "CREATE TRIGGER m BEFORE DELETE ON {} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE {} DISABLE TRIGGER ALL", "CLUSTER {}", "REINDEX TABLE {}",
    "CREATE FUNCTION pg_temp.n() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {}; END",
    "CREATE FUNCTION pg_temp.o() RETURNS SETOF {} LANGUAGE sql AS ''",
)  # fmt: skip
"""What names a table: Postgres locks it, or hangs something on it, before it looks at privileges."""


async def test_nothing_of_ours_is_for_others(roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the catalogue: so what is made later is tried too."""
    async for phase, _ in phases(roles, tmp_path, monkeypatch):
        for role in (roles.stranger, roles.app):
            with roles.connect(role) as taker:
                for schema in ("_replicator", "replicator"):
                    assert phase == "before" or refused(taker, f"CREATE TABLE {schema}.mine ()")
                for table in names_of(roles, TABLES):
                    tried = [each.format(table) for each in NAMED]
                    allowed = [each for each in tried if not _refused_in_transaction(taker, each)]
                    assert allowed == [], (phase, role)
                for sequence in names_of(roles, SEQUENCES):
                    assert refused(taker, f"SELECT nextval('{sequence}')"), (phase, role, sequence)
                for routine in names_of(roles, ROUTINES.format("<>")):
                    arguments = routine.partition("(")[2].rstrip(")").split(",")
                    call = f"{routine.partition('(')[0]}({', '.join(f'NULL::{each}' for each in arguments if each)})"
                    assert refused(taker, f"SELECT {call}") is not any(each in routine for each in FOR_ALL), call
                taker.execute("CREATE TEMP TABLE tried (id integer)")
                for routine in names_of(roles, ROUTINES.format("=")):
                    hang = f"CREATE TRIGGER t BEFORE DELETE ON tried FOR EACH ROW EXECUTE FUNCTION {routine}"
                    assert refused(taker, hang), routine
        assert names_of(
            roles,
            f"SELECT proname FROM pg_proc WHERE pronamespace IN ({OURS}) AND prosecdef "
            "AND has_function_privilege('public', oid, 'EXECUTE')",
        ) == []  # fmt: skip


def _refused_in_transaction(taker: "psycopg.Connection[Any]", statement: str) -> bool:
    with taker.transaction(force_rollback=True):
        try:
            with taker.transaction():
                taker.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
    return False


@pytest.mark.parametrize("column", ["id", "n"])
async def test_the_note_of_a_deletion_runs_no_code_of_others(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """A type named text, and a cast to it: whatever hangs the function on a table of its own, by a grant of old."""
    function = f"_replicator.note_deleted('a', 'b', '{column}')"
    hang = f"CREATE TRIGGER t AFTER DELETE ON bait FOR EACH ROW EXECUTE FUNCTION {function}"
    async for phase, _ in phases(roles, tmp_path, monkeypatch):
        if phase == "before":
            continue
        with roles.connect(roles.stranger) as stranger:
            stranger.execute(EVIL.encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                stranger.execute(hang.encode())
            roles.superuser(
                f"GRANT USAGE ON SCHEMA _replicator TO {roles.stranger}",
                f"GRANT EXECUTE ON FUNCTION _replicator.note_deleted() TO {roles.stranger}",
            )
            stranger.execute(hang.encode())
            roles.superuser(
                f"REVOKE USAGE ON SCHEMA _replicator FROM {roles.stranger}",
                f"REVOKE EXECUTE ON FUNCTION _replicator.note_deleted() FROM {roles.stranger}",
            )
            stranger.execute("INSERT INTO bait VALUES (ROW(1, 2), 3)")
            stranger.execute("DELETE FROM bait")
        assert names_of(roles, "SELECT table_name FROM _replicator.deleted") == [], phase


async def test_what_was_granted_on_the_control_tables_is_taken_back(roles: Roles, tmp_path: Path) -> None:
    """As README had it: the application might read all of them, also those that are yet to be made."""
    for schema in ("_replicator", "replicator"):
        roles.superuser(
            f"CREATE SCHEMA {schema} AUTHORIZATION {roles.replicator}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {roles.replicator} IN SCHEMA {schema} "
            f"GRANT SELECT ON TABLES TO {roles.app}",
            f"GRANT CREATE, USAGE ON SCHEMA {schema} TO {roles.app}, PUBLIC",
        )
    settings, migration = roles.settings(), identity(tmp_path)
    for _ in range(2):
        async with connection(settings.target, "test") as opened:
            await install(opened, migration)
        assert not _granted(roles)
        assert names_of(roles, f"SELECT oid FROM pg_default_acl WHERE defaclnamespace IN ({OURS})") == []
        for schema in ("_replicator", "replicator"):
            roles.superuser(
                f"GRANT ALL ON SCHEMA {schema} TO {roles.app} WITH GRANT OPTION",
                f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {roles.app}",
                f"GRANT ALL ON ALL FUNCTIONS IN SCHEMA {schema} TO {roles.app}",
            )
        roles.superuser(f"GRANT SELECT (row_as_it_was) ON _replicator.kept TO {roles.stranger}")
        assert _granted(roles)
    async with connection(settings.target, "test") as opened:
        await install(opened, migration)
    assert not _granted(roles)
    with roles.connect(roles.app) as app:
        assert app.execute("SELECT replicator.active_schema(), replicator.use_new_schema()").fetchone() == (
            "public", False,
        )  # fmt: skip


def _granted(roles: Roles) -> list[str]:
    """What others than the owner have in our schemas, but for what the application asks."""
    return names_of(
        roles,
        f"""
        SELECT format('%s on %s to %s', a.privilege_type, what, a.grantee) FROM (
            SELECT nspname, nspowner, nspacl FROM pg_namespace WHERE oid IN ({OURS})
            UNION ALL SELECT relname, relowner, relacl FROM pg_class WHERE relnamespace IN ({OURS})
            UNION ALL SELECT proname, proowner, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
            WHERE pronamespace IN ({OURS})
            UNION ALL SELECT attname, relowner, attacl FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
            WHERE relnamespace IN ({OURS})
        ) AS o (what, owner, acl), aclexplode(acl) AS a WHERE a.grantee <> o.owner AND NOT (a.grantee = 0
            AND (what, a.privilege_type) IN (('replicator', 'USAGE'), ('active', 'SELECT'),
                                             ('active_schema', 'EXECUTE'), ('use_new_schema', 'EXECUTE')))
        """,
    )


PLANTED: Final = {
    "the schema": "CREATE SCHEMA {schema} AUTHORIZATION {app}",
    "a table that is read": "CREATE VIEW {schema}.renames AS SELECT public.evil() AS from_schema",
    "an overload": "CREATE FUNCTION {schema}.enter(smallint) RETURNS void LANGUAGE sql AS 'SELECT public.evil()'",
    "an operator": "CREATE OPERATOR {schema}.<> (FUNCTION = int4ne, LEFTARG = int4, RIGHTARG = int4)",
}


WHOSE: Final = "(belongs to the role .*_app|is none of the replicator's); the role .* must not run what is there"


@pytest.mark.one_server
@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize(
    ("schema", "superuser"), [("_replicator", True), ("_replicator", False), ("replicator", False)]
)
async def test_what_was_planted_before_the_first_start(
    roles: Roles, tmp_path: Path, what: str, schema: str, superuser: bool
) -> None:
    """The daemon is a member of the application's role: what is planted would pass for its own."""
    evil = (
        "CREATE FUNCTION public.evil() RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'evil runs' USING ERRCODE = 'EV111'; END $$"
    )
    if what != "the schema":
        owner = "CURRENT_USER" if superuser else roles.replicator
        roles.superuser(f"CREATE SCHEMA {schema} AUTHORIZATION {owner}")
        roles.superuser(f"GRANT CREATE ON SCHEMA {schema} TO {roles.app}")
    roles.superuser(f"GRANT CREATE ON DATABASE {roles.database.name} TO {roles.app}", evil)
    planted = PLANTED[what].format(schema=schema, app=roles.app)
    roles.superuser(planted if what == "the schema" else f"SET ROLE {roles.app}; {planted}")
    settings = roles.settings()
    if superuser:
        dsn = type(settings.source_dsn)(roles.database.dsn)
        settings = settings.model_copy(update={"source_dsn": dsn, "target_dsn": dsn})
    with pytest.raises(CheckError, match=WHOSE):
        async with connection(settings.target, "test"):
            pass
    found = [each for each in await preflight(settings, identity(tmp_path)) if each.outcome == "fail"]
    assert any(re.search(WHOSE, each.detail) for each in found), found
    roles.superuser(f"DROP SCHEMA {schema} CASCADE")
    assert not any(re.search(WHOSE, each.detail) for each in await preflight(settings, identity(tmp_path)))


FORGED: Final = ("heartbeat", "activated 1", "activated 1 0", "drained 1", "settled 1", "built 1", "smoke 1")


def forge(roles: Roles, role: str, prefix: str, *contents: str) -> None:
    with roles.connect(role) as forger:
        for content in contents:
            forger.execute("SELECT pg_logical_emit_message(true, %s, %s)", (prefix, content))


async def test_a_forged_message_does_nothing_at_no_cost(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[Batch] = []
    apply = Pipeline._apply

    async def counted(self: Pipeline, piece: Batch) -> None:
        applied.append(piece)
        await apply(self, piece)

    monkeypatch.setattr(Pipeline, "_apply", counted)
    async for phase, running in phases(roles, tmp_path, monkeypatch):
        if running is None:
            continue
        applied.clear()
        for role in (roles.stranger, roles.app):
            forge(roles, role, "replicator", *FORGED)
        for pipeline in running.session.pipelines:
            await pipeline.catch_up()
            assert not set(pipeline.applied._messages) & set(FORGED), phase
        assert not [each for each in applied if set(each.messages) & set(FORGED)], phase


@pytest.mark.parametrize("knows", ["nothing", "the prefix", "the marker"])
async def test_a_forged_start_does_not_open_the_way_back(roles: Roles, tmp_path: Path, knows: str) -> None:
    """Before the commit, once the reverse slot is there: the old schema still owns the data."""
    roles.superuser("INSERT INTO public.t SELECT i, 'v' || i FROM generate_series(1, 20) AS i")
    async with daemon(roles.settings(), identity(tmp_path)) as running:
        await running.ready()
        forged: list[str] = []

        async def report(step: str) -> None:
            if not step.startswith("attempt") or forged:
                return
            prefix, marker = "replicator", "activated 1"
            if knows != "nothing":
                (prefix,) = names_of(roles, "SELECT message_prefix FROM _replicator.secrets")
            if knows == "the marker":
                (marker,) = names_of(
                    roles, "SELECT start_marker FROM _replicator.progress WHERE start_marker IS NOT NULL"
                )
            forge(roles, roles.stranger, prefix, marker)
            forged.append(marker)
            reverse = running.session.pipelines.get("reverse")
            assert reverse is not None
            await reverse.catch_up()
            assert reverse.context.shadow
            with roles.connect(roles.app) as app:
                app.execute("UPDATE public.t SET v = 'written by the application'")

        await running.session.switchovers.run(CUTOVER, report)
        assert forged
        await running.clean()
        with roles.connect(roles.app) as app:
            assert app.execute("SELECT DISTINCT v FROM public.t").fetchall() == [("written by the application",)]
            app.execute("UPDATE shop.t SET v = 'and back'")
        back = "SELECT DISTINCT v FROM public.t"
        await running.until(lambda: names_of(roles, back) == ["and back"])


@pytest.mark.one_server
async def test_locks_of_others_hold_nothing_up(roles: Roles, tmp_path: Path) -> None:
    """The advisory locks that there once were, and whatever lock others get on the control tables."""
    roles.superuser("INSERT INTO public.t SELECT i, 'v' || i FROM generate_series(1, 20) AS i")
    with roles.connect(roles.stranger) as stranger, roles.connect(roles.app) as app:
        for number in (1, 2, 3):
            stranger.execute("SELECT pg_advisory_lock(1919250540, %s)", (number,))
        async with daemon(roles.settings(), identity(tmp_path)) as running:
            await running.ready()
            for taker in (stranger, app):
                taker.execute("BEGIN")
                taker.execute("SELECT replicator.active_schema()")
                for statement in ("COMMENT ON SCHEMA replicator IS 'mine'", "DROP SCHEMA replicator"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege), taker.transaction():
                        taker.execute(statement.encode())
            async with connection(roles.settings().target, "test") as opened:
                await install(opened, identity(tmp_path))
                assert await daemon_alive(opened)
            app.execute("COMMIT")
            app.execute("INSERT INTO public.t VALUES (21, 'written')")
            await running.until(lambda: names_of(roles, "SELECT v FROM shop.t WHERE id = 21") == ["written"])
            await running.cut_over()


@pytest.mark.one_server
async def test_a_dead_daemons_process_number_is_nobodys_lease(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not read all statistics does not see when a session of another role began."""
    async with connection(roles.settings().target, "test") as opened:
        await install(opened, identity(tmp_path))
    await (await Lease.acquire(roles.dsn(roles.replicator))).release()
    roles.superuser(f"REVOKE pg_read_all_stats FROM {roles.replicator}")
    with roles.connect(roles.stranger) as stranger:
        stranger.execute("SET application_name = 'replicator lease'")
        roles.superuser(f"UPDATE _replicator.lease SET pid = {stranger.info.backend_pid}")
        taken = await Lease.acquire(roles.dsn(roles.replicator))
        monkeypatch.setattr(lease, "TRIES", 2)
        with pytest.raises(LeaseError, match="Another daemon is running"):
            await Lease.acquire(roles.dsn(roles.replicator))
        await taken.release()


@pytest.mark.one_server
async def test_who_keeps_the_lease_from_passing_on_is_named(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "FENCE_SECONDS", 0.2)
    settings, migration = roles.settings(), identity(tmp_path)
    async with connection(settings.target, "test") as opened:
        await install(opened, migration)
        held = await Lease.acquire(settings.target)
        assert await daemon_alive(opened)
        monkeypatch.setattr(lease, "TRIES", 2)
        with pytest.raises(LeaseError, match="Another daemon is running this migration"):
            await Lease.acquire(settings.target)
        await held.release()
        monkeypatch.setattr(lease, "TRIES", 50)
        async with opened.transaction():
            await opened.execute("SELECT _replicator.enter(1)")
            with pytest.raises(LeaseError, match=f"not over .pid {opened.info.backend_pid}, role {roles.replicator}"):
                await Lease.acquire(settings.target)
        taken = await Lease.acquire(settings.target)
        assert taken.epoch == 2
        await taken.release()


USERS: Final = {
    "view public.mine": "CREATE VIEW public.mine AS SELECT replicator.active_schema()",
    "default value for column s of table public.d": "CREATE TABLE public.d (s text DEFAULT replicator.active_schema())",
    "policy own on table public.p": "CREATE TABLE public.p (s text); "
    "CREATE POLICY own ON public.p USING (s = replicator.active_schema())",
    "table replicator.notes": "SET ROLE {replicator}; CREATE TABLE replicator.notes (s text)",
}


@pytest.mark.one_server
@pytest.mark.parametrize("named", USERS)
async def test_giving_up_takes_nothing_of_others_along(roles: Roles, tmp_path: Path, named: str) -> None:
    settings, migration = roles.settings(), identity(tmp_path)
    await Engine(settings, migration).make_tables()
    before = names_of(roles, "SELECT oid FROM pg_class WHERE relname = 't'")
    roles.superuser(USERS[named].format(replicator=roles.replicator))

    async def tell(_: str) -> None:
        """Nobody asks."""

    with pytest.raises(CheckError, match=f"(still used by|has not made): {named}"):
        await abort(settings, migration, tell)
    assert set(before) <= set(names_of(roles, "SELECT oid FROM pg_class"))
    assert names_of(roles, "SELECT migration FROM _replicator.ownership") == ["identity"]
    kind = "VIEW" if named.startswith("view") else "TABLE"
    roles.superuser(f"DROP {kind} {named.rsplit(maxsplit=1)[-1]}")
    await abort(settings, migration, tell)
    assert (
        names_of(
            roles, "SELECT 1 WHERE coalesce(to_regnamespace('_replicator'), to_regnamespace('replicator')) IS NOT NULL"
        )
        == []
    )


@pytest.mark.one_server
async def test_an_application_with_the_daemons_role_is_told_of(roles: Roles, tmp_path: Path) -> None:
    settings, migration = roles.settings(), identity(tmp_path)
    with psycopg.connect(roles.dsn(roles.replicator), application_name="shop", autocommit=True) as shop:
        found = {each.check: each for each in await preflight(settings, migration)}
        assert found["source.own_role"].outcome == "warn"
        assert "shop" in found["source.own_role"].detail
        shop.close()

    async def gone() -> bool:
        found = {each.check: each for each in await preflight(settings, migration)}
        return found["source.own_role"].outcome != "warn"

    await until(gone)  # the server needs a moment to notice


async def test_a_cast_to_text_that_would_run_as_the_daemon_is_refused(roles: Roles, tmp_path: Path) -> None:
    """Every value of such a type that is read as text would call it."""
    settings, migration = roles.settings(), identity(tmp_path)
    with roles.connect(roles.app) as app:
        app.execute("CREATE TYPE public.mood AS ENUM ('good')")
        app.execute(
            "CREATE FUNCTION public.spell(public.mood) RETURNS text LANGUAGE sql AS $$ SELECT current_user::text $$"
        )
        app.execute("CREATE CAST (public.mood AS text) WITH FUNCTION public.spell(public.mood)")
        found = {each.check: each for each in await preflight(settings, migration)}
        assert found["source.casts"].outcome == "pass", "no column has such a type"
        app.execute("CREATE TABLE public.feelings (id integer PRIMARY KEY, mood public.mood)")
    found = {each.check: each for each in await preflight(settings, migration)}
    assert found["source.casts"].outcome == "fail"
    follow_remedy(roles.database.dsn, found["source.casts"])
    roles.superuser("DROP TABLE public.feelings")
    assert not [each for each in await preflight(settings, migration) if each.outcome == "fail"]


CASTS: Final = """
CREATE FUNCTION public.{name}({given}) RETURNS {made} LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'evil runs as %', current_user USING ERRCODE = 'EV111'; END $$;
CREATE CAST ({given} AS {made}) WITH FUNCTION public.{name}({given}) AS IMPLICIT;
"""
OF_THEIRS: Final = """
CREATE TYPE public.mood AS ENUM ('good', 'bad');
CREATE TYPE public.pair AS (a integer, b text);
CREATE TYPE public.span AS RANGE (subtype = integer);
CREATE DOMAIN public.small AS integer CHECK (VALUE < 100);
CREATE TABLE public.parents (id public.mood PRIMARY KEY, n integer);
CREATE TABLE public.t (id public.mood PRIMARY KEY, many public.mood[], pair public.pair, span public.span,
    small public.small, parent public.mood, big text);
INSERT INTO public.parents VALUES ('good', 1), ('bad', 2);
INSERT INTO public.t VALUES ('good', '{good,bad}', '(1,"a b")', '[1,3)', 7, 'bad', repeat('x', 10));
"""
OF_OURS: Final = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.t (id public.mood PRIMARY KEY, many public.mood[], pair public.pair, span public.span,
    small public.small, parent public.mood, big text);
CREATE TABLE IF NOT EXISTS shop.joined (id public.mood PRIMARY KEY, n integer);
"""


@pytest.mark.one_server
async def test_a_cast_to_or_from_a_type_of_theirs_is_never_taken(database: Database, tmp_path: Path) -> None:
    """From text and from its arrays to an enum, an array, a composite, a range and a domain: made after every check."""
    with readme_roles(database, OF_THEIRS) as roles:
        roles.superuser(f"GRANT EXECUTE ON FUNCTION {', '.join(ORIGINS)} TO {roles.replicator}")
        migration = identity(tmp_path, OF_OURS)
        migration.retire("parents", because="it is read by a query")
        joined = Query(
            "SELECT t.id, p.n FROM public.t AS t JOIN public.parents AS p ON p.id OPERATOR(pg_catalog.=) t.parent",
            key=["id"],
            depends_on={
                "t": ["id"],
                "parents": Lookup("SELECT id FROM public.t WHERE parent OPERATOR(pg_catalog.=) (%(id)s)::public.mood"),
            },
        )
        migration.transform(source=joined, into="joined", name="joined", key=lambda row: row["id"])(dict)
        async with daemon(roles.settings(), migration) as running:
            await running.until(lambda: running.active is not None)
            with roles.connect(roles.app) as app:
                made = ("mood", "mood[]", "pair", "pair[]", "span", "span[]", "small[]")
                pairs = [(given, f"public.{each}") for each in made for given in ("text", "text[]")]
                pairs += [(f"public.{each}", "text[]") for each in made]
                for number, (given, into) in enumerate(pairs):
                    app.execute(CASTS.format(name=f"evil{number}", given=given, made=into).encode())
                await running.ready()
                app.execute("UPDATE public.t SET big = repeat(md5(random()::text), 9999)")
                app.execute("UPDATE public.t SET small = 8")  # the log leaves out what is unchanged and large
                app.execute("UPDATE public.parents SET n = 3")
                await running.until(lambda: names_of(roles, "SELECT n FROM shop.joined") == ["3"])
                await running.session.switchovers.run(OPENING, running.report)
                app.execute("DELETE FROM public.t WHERE id::pg_catalog.text = 'no such'")
                app.execute("INSERT INTO public.t (id) VALUES ('bad'::public.mood)")
                await running.until(lambda: names_of(roles, "SELECT id FROM shop.t WHERE id = 'bad'") == ["bad"])
                app.execute("DELETE FROM public.t WHERE id = 'bad'")
                await running.until(lambda: names_of(roles, "SELECT id FROM shop.t") == ["good"])
        columns = "id, many, pair, span, small, parent, md5(big)"
        same = f"SELECT ({columns}) FROM public.t EXCEPT SELECT ({columns}) FROM shop.t"
        assert names_of(roles, same) == []
        assert names_of(roles, "SELECT error FROM _replicator.quarantine") == []


@pytest.mark.one_server
async def test_who_owns_the_tables_makes_partitions_while_both_schemas_take_writes(
    database: Database, tmp_path: Path
) -> None:
    """Its triggers come with it, and their function is nobody's else to hang on a table: still it can be made."""
    parent = "CREATE TABLE public.t (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id)"
    first = "CREATE TABLE public.t_1 PARTITION OF public.t FOR VALUES FROM (0) TO (100)"
    with readme_roles(database, parent, first) as roles:
        roles.superuser(f"GRANT EXECUTE ON FUNCTION {', '.join(ORIGINS)} TO {roles.replicator}")
        settings, migration = roles.settings(), identity(tmp_path)
        async with daemon(settings, migration) as running:
            await running.ready()
            await running.session.switchovers.run(OPENING, running.report)
            async with connection(settings.target, "test") as opened:
                await install(opened, migration)  # takes back what was granted, but for this
            with roles.connect(roles.app) as app:
                app.execute("CREATE TABLE public.t_2 PARTITION OF public.t FOR VALUES FROM (100) TO (200)")
                app.execute("INSERT INTO public.t VALUES (1, 'one'), (150, 'late')")
                await running.until(lambda: names_of(roles, "SELECT id FROM shop.t ORDER BY 1") == ["1", "150"])
                app.execute("DELETE FROM public.t WHERE id = 150")
                noted = "SELECT row_key FROM _replicator.deleted WHERE table_schema = 'public'"
                assert names_of(roles, noted) == ["['150']"]
                await running.until(lambda: names_of(roles, "SELECT id FROM shop.t") == ["1"])


@pytest.mark.one_server
async def test_whoever_has_asked_and_stays_is_named_by_abort(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle transaction that has asked for the schema in use; and one that has read a new table."""
    monkeypatch.setattr(removal, "DROP_TRIES", 3)
    monkeypatch.setattr(finish, "TRIES", 3)
    monkeypatch.setattr(locks, "OWN_SECONDS", 0.2)
    monkeypatch.setattr(locks, "BETWEEN_TURNS", 0.1)
    settings, migration = roles.settings(), identity(tmp_path)
    await Engine(settings, migration).make_tables()
    told: list[str] = []

    async def tell(step: str) -> None:
        told.append(step)

    for asked, what in (("SELECT FROM shop.t", "A new table"), ("SELECT replicator.active_schema()", "What the rep")):
        with roles.connect(roles.app) as app:
            app.execute("BEGIN")
            app.execute(asked.encode())
            named = f"{what}.*could not be locked.*process {app.info.backend_pid} "
            with pytest.raises(CheckError, match=named):
                await abort(settings, migration, tell)
            assert re.search(named, told[-1])
            assert names_of(roles, "SELECT migration FROM _replicator.ownership") == ["identity"]
    await abort(settings, migration, tell)
    assert names_of(roles, OURS) == []


BY_NUMBER: Final = (
    "SELECT pg_get_viewdef(oid) FROM pg_class WHERE relname = 'active' AND relkind = 'v'",
    "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'active_schema'",
    "SELECT pg_sequence_last_value(oid) FROM pg_class WHERE relkind = 'S' AND relnamespace IN ({ours})",
    "SELECT nextval(oid) FROM pg_class WHERE relkind = 'S' AND relnamespace IN ({ours})",
    "SELECT pg_total_relation_size(oid), pg_get_indexdef(oid) FROM pg_class WHERE relnamespace IN ({ours})",
    "SELECT table_to_xml(oid, true, true, '') FROM pg_class WHERE relnamespace IN ({ours})",
    "SELECT brin_summarize_new_values(oid) FROM pg_class WHERE relkind = 'i' AND relnamespace IN ({ours})",
    "GRANT EXECUTE ON FUNCTION replicator.active_schema(), replicator.use_new_schema() TO PUBLIC",
    "GRANT USAGE ON SCHEMA replicator TO PUBLIC",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA _replicator GRANT ALL ON TABLES TO PUBLIC",
    "NOTIFY replicator_cutover, 'new'",
    "NOTIFY replicator_command, '1'",
    "SELECT pg_advisory_lock(n) FROM generate_series(1, 100) AS n",
    "COMMENT ON SCHEMA _replicator IS 'mine'",
    "DROP SCHEMA _replicator",
    "GRANT USAGE ON SCHEMA _replicator TO PUBLIC",
    "GRANT ALL ON ALL TABLES IN SCHEMA _replicator TO PUBLIC",
)
"""What needs no name, or locks before it looks; each keeps what it gets until its transaction ends."""


@pytest.mark.one_server
async def test_what_others_hold_without_naming_it_holds_nothing_up(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, held by both roles through every phase and every move, starts and the end."""
    settings, migration = roles.settings(), identity(tmp_path)
    with roles.connect(roles.stranger) as stranger, roles.connect(roles.app) as app:
        async for phase, running in phases(roles, tmp_path, monkeypatch):
            for taker in (stranger, app):
                taker.execute("ROLLBACK")
            if phase in ("before", "follow"):
                continue  # slots are made now: a server makes none before all transactions that write have ended
            for taker in (stranger, app):
                taker.execute("SET lock_timeout = '50ms'")  # what the other one has is held as well
                taker.execute("BEGIN")
                for each in BY_NUMBER:
                    with contextlib.suppress(psycopg.Error), taker.transaction():
                        taker.execute(each.format(ours=OURS).encode())
            async with connection(settings.target, "test") as opened:
                await install(opened, migration)
            if running is not None:
                with roles.connect(roles.app) as writer:
                    table = "shop.t" if phase == "soak" else "public.t"
                    writer.execute(f"UPDATE {table} SET v = '{phase}' WHERE id = 7".encode())
                if phase != "backfill":
                    await running.until(partial(_written, roles, phase))


def _written(roles: Roles, value: str) -> bool:
    return names_of(roles, "SELECT v FROM shop.t WHERE id = 7 INTERSECT SELECT v FROM public.t WHERE id = 7") == [value]


@pytest.mark.one_server
async def test_a_publication_for_all_tables_stops_nothing(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a published table without an identity no row can be deleted, and the control tables are published too."""
    roles.superuser("CREATE PUBLICATION everything FOR ALL TABLES")
    async for phase, running in phases(roles, tmp_path, monkeypatch):
        if phase == "rolling":
            with roles.connect(roles.app) as app:
                app.execute("DELETE FROM public.t WHERE id = 7")
            await running.until(lambda: names_of(roles, "SELECT id FROM shop.t WHERE id = 7") == [])


@pytest.mark.one_server
async def test_an_extension_in_our_schema_is_named_and_goes_by_what_is_said(roles: Roles, tmp_path: Path) -> None:
    """Whoever may create in the database may put a trusted one there, without any right on the schema."""
    if not names_of(roles, "SELECT name FROM pg_available_extensions WHERE name = 'citext'"):
        pytest.skip("This server comes without the extension.")
    settings, migration = roles.settings(), identity(tmp_path)
    await Engine(settings, migration).make_tables()
    roles.superuser(f"GRANT CREATE ON DATABASE {roles.database.name} TO {roles.app}")
    with roles.connect(roles.app) as app:
        app.execute("CREATE EXTENSION citext SCHEMA _replicator")

        async def tell(_: str) -> None:
            """Nobody asks."""

        with pytest.raises(CheckError, match="extension citext"):
            await abort(settings, migration, tell)
        app.execute("DROP EXTENSION citext")
    await abort(settings, migration, tell)
    assert names_of(roles, OURS) == []


@pytest.mark.one_server
async def test_whoever_keeps_notifications_from_going_out_is_in_the_way_of_no_move(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue may be full, and a commit that notifies waits for every other one: so none of ours decides anything."""
    notify, patience = notify_of_owner, handover.ANNOUNCE_SECONDS
    monkeypatch.setattr(handover, "ANNOUNCE_SECONDS", 0.5)
    tried: list[str] = []

    async def stuck(asking: Connection) -> None:
        tried.append("stuck")
        await asking.execute("SELECT pg_sleep(60)")

    async def full(asking: Connection) -> None:
        tried.append("full")
        raise DatabaseError("Postgres says: too many notifications in the NOTIFY queue (54000).", sqlstate="54000")

    with roles.connect(roles.app) as app:
        app.execute("LISTEN replicator_cutover")
        async with daemon(roles.settings(), identity(tmp_path)) as running:
            await running.ready()
            monkeypatch.setattr(handover, "notify_of_owner", stuck)
            await running.cut_over()
            await running.clean()
            monkeypatch.setattr(handover, "notify_of_owner", full)
            await running.roll_back()
            await running.clean()
            assert tried == ["stuck", "full"]
            monkeypatch.setattr(handover, "notify_of_owner", notify)
            monkeypatch.setattr(handover, "ANNOUNCE_SECONDS", 10 * patience)
            await running.cut_over()
        assert [each.payload for each in app.notifies(timeout=60, stop_after=1)] == ["new"]
