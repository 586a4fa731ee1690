"""The facts of the ground: what goes wrong is noticed before the start, while following, and under the lock."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from replicator.errors import CheckError, ReplicatorError
from replicator.preflight import Finding, preflight
from replicator.preflight.facts import Wrong
from replicator.runtime.failpoints import Failpoint, handled
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import Running, daemon, gate, of
from tests.statements import each_alone, one
from tests.twins import NEW, OLD, rows, twins

FAR = "CREATE EXTENSION file_fdw; CREATE SERVER far FOREIGN DATA WRAPPER file_fdw"
NOTHING = "SERVER far OPTIONS (filename '/dev/null')"


@dataclass(frozen=True)
class Situation:
    """Something done to the tables: the fact that is wrong by it, and what is written meanwhile."""

    fact: str
    does: tuple[str, ...]
    says: str
    writes: tuple[str, ...] = ()
    plugin: str = ""
    """Where only one lets it happen."""


SITUATIONS = {
    "unlogged": Situation(
        fact="old_tables.logged",
        does=("ALTER TABLE t SET UNLOGGED",),
        says="Unlogged: public.t.",
        writes=("UPDATE t SET v = 'unseen' WHERE id = 1", "DELETE FROM t WHERE id = 2", "INSERT INTO t VALUES (99)"),
        plugin="wal2json",  # a published table cannot become unlogged
    ),
    "unlogged partition": Situation(
        fact="old_tables.logged",
        does=("CREATE UNLOGGED TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20)",),
        says="Unlogged: public.days_2.",
        writes=("INSERT INTO days VALUES (1, 15, 'unseen')",),
    ),
    "unlogged new table": Situation(
        fact="new_tables.logged", does=("ALTER TABLE shop.t SET UNLOGGED",), says="Unlogged: shop.t."
    ),
    "foreign partition": Situation(
        fact="old_tables.partitions",
        does=(FAR, f"CREATE FOREIGN TABLE prices_2 PARTITION OF prices FOR VALUES FROM (10) TO (20) {NOTHING}"),
        says="Foreign partitions: public.prices_2.",
    ),
    "foreign partition, attached": Situation(
        fact="old_tables.partitions",
        does=(
            FAR,
            f"CREATE FOREIGN TABLE elsewhere.far_away (day integer, price integer) {NOTHING}",
            "ALTER TABLE prices ATTACH PARTITION elsewhere.far_away FOR VALUES FROM (10) TO (20)",
        ),
        says="Foreign partitions: elsewhere.far_away.",
    ),
    "a child": Situation(
        fact="old_tables.inheritance",
        does=("CREATE TABLE elsewhere.child () INHERITS (t)",),
        says="Other tables inherit from public.t.",
        writes=("INSERT INTO elsewhere.child VALUES (70, 'read, not logged')",),
    ),
    "a child later": Situation(
        fact="old_tables.inheritance",
        does=("CREATE TABLE elsewhere.child (LIKE t)", "ALTER TABLE elsewhere.child INHERIT t"),
        says="Other tables inherit from public.t.",
        writes=("INSERT INTO elsewhere.child VALUES (70, 'read, not logged')",),
    ),
    "a child of a new table": Situation(
        fact="new_tables.inheritance",
        does=("CREATE TABLE elsewhere.child () INHERITS (shop.t)",),
        says="Other tables inherit from shop.t.",
    ),
    "a rule on a new table": Situation(
        fact="new_tables.rules",
        does=("CREATE RULE quiet AS ON DELETE TO shop.t DO INSTEAD NOTHING",),
        says="Rules are on tables that we write: quiet on shop.t.",
    ),
    "a rule on an old table": Situation(
        fact="old_tables.rules",
        does=(
            "CREATE TABLE elsewhere.log (id integer)",
            "CREATE RULE noted AS ON UPDATE TO t DO ALSO INSERT INTO elsewhere.log VALUES (NEW.id)",
        ),
        says="Rules are on tables that we write: noted on public.t.",
    ),
    "a rule that is off": Situation(
        fact="old_tables.rules",
        does=(
            "CREATE RULE noted AS ON UPDATE TO days DO INSTEAD NOTHING",
            "ALTER TABLE days DISABLE RULE noted",
        ),
        says="Rules are on tables that we write: noted on public.days.",
    ),
    "a trigger that bears our guard's name": Situation(
        fact="old_tables.guards",
        does=(
            "CREATE FUNCTION elsewhere.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER replicator_guard BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION elsewhere.pass()",
        ),
        says="Triggers bear the names of ours: replicator_guard on public.t.",
    ),
    "a table that nobody accounts for": Situation(
        fact="old_tables.coverage",
        does=("CREATE TABLE forgotten (id integer PRIMARY KEY)",),
        says="Neither transformed, nor retired, nor left: forgotten.",
    ),
    "a key that is gone": Situation(
        fact="new_tables.keys",
        does=("ALTER TABLE shop.t DROP CONSTRAINT t_pkey",),
        says="shop.t without a primary key.",
    ),
}
BY_HAND = {
    "old_tables.coverage": ("DROP TABLE forgotten",),
    "new_tables.keys": ("ALTER TABLE shop.t ADD PRIMARY KEY (id)",),
}
"""Remedies that are no SQL that one could copy."""


def remedy(wrong: Wrong | Finding) -> tuple[str, ...]:
    """The SQL of a remedy."""
    name = wrong.name if isinstance(wrong, Wrong) else wrong.check
    found = tuple(line for line in wrong.remedy.splitlines() if line.endswith(";"))
    return BY_HAND.get(name) or found


@pytest.fixture
def ground(database: Database) -> Database:
    execute(database.dsn, [OLD, "CREATE SCHEMA elsewhere"])
    return database


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_PASSES", 0.3)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 0.05)


def named(running: Running, fact: str) -> Wrong | None:
    return next((each for each in of(running).monitor.wrong if each.name == fact), None)


def applicable(ground: Database, situation: Situation) -> None:
    if situation.plugin not in ("", ground.plugin):
        pytest.skip("Postgres refuses that here")
    if FAR in situation.does and not one(ground.dsn, "SELECT 1 FROM pg_available_extensions WHERE name = 'file_fdw'"):
        pytest.skip("This server comes without the extension.")


@pytest.mark.one_server
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", SITUATIONS)
async def test_what_goes_wrong_shuts_the_gate_until_the_remedy_is_done(
    ground: Database, tmp_path: Path, name: str
) -> None:
    situation = SITUATIONS[name]
    applicable(ground, situation)
    settings = make_settings(ground)
    async with daemon(settings, twins(tmp_path)) as running:
        await running.ready()
        assert (await gate(running, settings)).ok
        await asyncio.to_thread(each_alone, ground.dsn, situation.does)
        await running.until(lambda: named(running, situation.fact))
        wrong = named(running, situation.fact)
        assert wrong is not None
        assert situation.says in wrong.problem
        shut = await gate(running, settings)
        assert not shut.ok
        assert situation.says in shut.detail
        await asyncio.to_thread(each_alone, ground.dsn, situation.writes)
        await asyncio.to_thread(each_alone, ground.dsn, remedy(wrong))
        await running.until(lambda: not of(running).monitor.wrong)
        assert (await gate(running, settings)).ok
        await running.until(lambda: not of(running).context.unseen and of(running).verifier.clean)
        await asyncio.to_thread(each_alone, ground.dsn, ("UPDATE t SET v = 'after' WHERE id = 3",))
        await of(running).catch_up()
        assert rows(ground.dsn, "public") == rows(ground.dsn, "shop")
        await running.in_the_end(running.cut_over)


CHILD = ("CREATE TABLE elsewhere.child () INHERITS (t)", "INSERT INTO elsewhere.child VALUES (99, 'of the child')")


@pytest.mark.two_servers
@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_wrong_for_a_while_has_all_rows_compared_when_it_is_right_again(
    ground: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """A child comes and goes between two looks at the definitions, which show nothing of it; a pass reads its row."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3_600.0)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_PASSES", 0.3)
    settings, migration = make_settings(ground), twins(tmp_path)
    async with daemon(settings, migration) as running:
        await running.ready()
        # The first look comes by itself, right after the start: that of the definitions must not see the child.
        await running.until(lambda: of(running).monitor._generations._known is not None)
        await asyncio.to_thread(each_alone, ground.dsn, CHILD)
        await of(running).monitor.look_at_ground()
        assert named(running, "old_tables.inheritance")
        assert not of(running).context.unseen
        if not restarted:
            await asyncio.to_thread(each_alone, ground.dsn, ("DROP TABLE elsewhere.child",))
            await of(running).monitor.look_at_ground()
            assert "t" in of(running).context.unseen
            await running.until(lambda: not of(running).context.unseen and of(running).verifier.clean)
    if restarted:
        each_alone(ground.dsn, ("DROP TABLE elsewhere.child",))
        async with daemon(settings, migration) as running:
            await running.ready()
    compared = "SELECT details->'tables' FROM _replicator.journal WHERE event = 'changed past the log'"
    assert "t" in (one(ground.dsn, compared) or [])
    assert rows(ground.dsn, "public") == rows(ground.dsn, "shop")


@pytest.mark.one_server
@pytest.mark.parametrize("name", SITUATIONS)
async def test_what_goes_wrong_at_the_last_moment_is_noticed_under_the_lock(
    ground: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    situation = SITUATIONS[name]
    applicable(ground, situation)
    if (name, ground.plugin) == ("unlogged new table", "pgoutput"):
        pytest.skip("Then it is published for the way back.")
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3_600.0)

    async def change() -> None:
        await asyncio.to_thread(each_alone, ground.dsn, situation.does)

    async with daemon(make_settings(ground), twins(tmp_path)) as running:
        await running.ready()
        # all that is looked at before the lock has been, by then
        with handled(Failpoint.CUTOVER_BEGUN, change), pytest.raises(ReplicatorError) as refused:
            await running.cut_over(dry_run=True)
        told = (situation.says, "past the log", "has no primary key", "Not closed to others")  # either shuts it
        assert any(each in str(refused.value) for each in told), refused.value
        assert refused.value.remedy
        assert one(ground.dsn, "SELECT replicator.active_schema()") == "public"


@pytest.mark.one_server
@pytest.mark.parametrize("name", SITUATIONS)
async def test_what_is_wrong_before_a_start_is_refused_and_goes_on_after_the_remedy(
    ground: Database, tmp_path: Path, name: str
) -> None:
    situation = SITUATIONS[name]
    applicable(ground, situation)
    settings, migration = make_settings(ground), twins(tmp_path)
    execute(ground.dsn, [NEW])
    each_alone(ground.dsn, situation.does)
    found = {each.check: each for each in await preflight(settings, migration)}
    assert found[situation.fact].outcome == "fail"
    assert situation.says in found[situation.fact].detail
    with contextlib.suppress(CheckError):
        each_alone(ground.dsn, remedy(found[situation.fact]))
    found = {each.check: each for each in await preflight(settings, migration)}
    assert [each for each in found.values() if each.outcome == "fail"] == []


# ---- row security


@pytest.fixture
def mover(ground: Database) -> Iterator[str]:
    """A role that is no superuser and acts for the tables' owner, as README says."""
    ours, app = f"{ground.name}_mover", f"{ground.name}_app"
    with ground.connect() as opened:
        opened.execute(f"CREATE ROLE {ours} LOGIN REPLICATION; CREATE ROLE {app}; GRANT {app} TO {ours}".encode())
        opened.execute(
            f"GRANT CREATE ON DATABASE {ground.name} TO {ours}; GRANT CREATE ON SCHEMA public TO {app}".encode()
        )
        for table in ("t", "days", "days_1", "prices", "prices_1"):
            opened.execute(f"ALTER TABLE {table} OWNER TO {app}".encode())
        opened.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
        yield ours
        opened.execute(f"DROP OWNED BY {ours}, {app} CASCADE".encode())
        opened.execute(f"DROP ROLE {ours}, {app}".encode())


HIDING = (
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    "CREATE POLICY few ON t USING (id > 10)",
)


@pytest.mark.every_server
@pytest.mark.usefixtures("quick")
async def test_row_security_deletes_nothing(ground: Database, mover: str, tmp_path: Path) -> None:
    dsn = ground.dsn.replace("postgres@", f"{mover}@")
    settings = make_settings(ground, source_dsn=dsn, target_dsn=dsn)
    before = rows(ground.dsn, "public")
    migration = twins(tmp_path)
    migration.accept = ["row security t", "forced row security t", "policy t.few"]  # else these shut the gate, too
    with contextlib.suppress(ReplicatorError):  # it ends, if it must read
        async with daemon(settings, migration) as running:
            await running.ready()
            await asyncio.to_thread(each_alone, ground.dsn, (*HIDING, "UPDATE t SET v = v"))
            await running.until(lambda: named(running, "old_tables.row_security"))
            shut = await gate(running, settings)
            assert "Row level security filters" in shut.detail
            await running.task
    assert rows(ground.dsn, "shop") == before
    found = {each.check: each for each in await preflight(settings, migration)}
    assert found["old_tables.row_security"].outcome == "fail"
    each_alone(ground.dsn, remedy(found["old_tables.row_security"]))
    async with daemon(settings, migration) as running:
        await running.ready()
        assert (await gate(running, settings)).ok
        await of(running).catch_up()
        assert rows(ground.dsn, "shop") == before


# ---- subscriptions


@pytest.mark.two_servers
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("table", ["t", "days_1"])
async def test_a_subscription_into_a_table(
    ground: Database, other_database: Database, tmp_path: Path, table: str
) -> None:
    """It writes in replica mode, past every ordinary trigger. One that is switched off may be resumed at any time."""
    execute(other_database.dsn, [OLD, f"CREATE PUBLICATION theirs FOR TABLE {table}"])
    subscribe = (
        f"CREATE SUBSCRIPTION theirs CONNECTION '{other_database.dsn}' PUBLICATION theirs "
        "WITH (create_slot = false, enabled = false, slot_name = 'none')"
    )
    settings = make_settings(ground)
    each_alone(ground.dsn, (subscribe,))
    found = {each.check: each for each in await preflight(settings, twins(tmp_path))}
    assert found["old_tables.subscriptions"].outcome == "fail"
    root = "t" if table == "t" else "days"
    assert f"public.{root} (theirs)" in found["old_tables.subscriptions"].detail
    each_alone(ground.dsn, remedy(found["old_tables.subscriptions"]))
    async with daemon(settings, twins(tmp_path)) as running:
        await running.ready()
        await asyncio.to_thread(each_alone, ground.dsn, (subscribe,))
        await running.until(lambda: named(running, "old_tables.subscriptions"))
        wrong = named(running, "old_tables.subscriptions")
        assert wrong is not None
        assert not (await gate(running, settings)).ok
        await asyncio.to_thread(each_alone, ground.dsn, remedy(wrong))
        await running.until(lambda: not of(running).monitor.wrong)
