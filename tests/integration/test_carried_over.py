"""What belongs to an old table and not to its successor: a matter of security fails the check, all else is named."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import Migration
from replicator.errors import MigrationError, NotReadyError
from tests.checking import Found, check, outcomes, statements
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import Running, daemon
from tests.shop import NEW, OLD, shop

pytestmark = pytest.mark.one_server

SECURED = """
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON orders FOR SELECT USING (tenant = current_user);
"""
BELONGS = """
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER audited AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION nothing();
COMMENT ON TABLE orders IS 'what is bought';
COMMENT ON COLUMN orders.total IS 'in cents';
CREATE STATISTICS together ON tenant, total FROM orders;
ALTER TABLE orders SET (fillfactor = 70);
ALTER TABLE orders REPLICA IDENTITY FULL;
"""


@contextlib.contextmanager
def roles(database: Database, *names: str) -> Iterator[tuple[str, ...]]:
    """Roles that may log in, and own nothing."""
    made = tuple(f"{database.name}_{name}" for name in names)
    execute(database.dsn, [f"CREATE ROLE {each} LOGIN" for each in made])
    try:
        yield made
    finally:
        execute(database.dsn, [f"DROP OWNED BY {each} CASCADE" for each in made])
        execute(database.dsn, [f"DROP ROLE {each}" for each in made])


def security(found: Found) -> set[str]:
    return {each for each in outcomes(found, "fail") if each.startswith("security.")}


def with_remedies(found: Found) -> str:
    """The new tables, and what the remedies put on them."""
    failing = [found[each] for each in sorted(found) if each.startswith(("security.", "not_carried."))]
    return "\n".join([NEW, *(line for each in failing for line in statements(each))])


async def test_row_security_and_policies_fail_the_check(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, SECURED])
    found = await check(database, shop(tmp_path))
    assert security(found) == {"security.row_security", "security.policies"}
    assert found["security.row_security"].detail == (
        "Lost with the cutover: row security of public.orders; forced row security of public.orders."
    )
    assert "accept=['policy orders.tenant_only']" in found["security.policies"].remedy
    mended = await check(database, shop(tmp_path, with_remedies(found)))
    assert security(mended) == set()
    accept = ["policy orders.tenant_only", "row security orders", "forced row security orders", "policy orders.gone"]
    accepted = await check(database, shop(tmp_path, accept=accept))
    assert security(accepted) == set()
    assert "policy orders.gone." in accepted["security.accept"].detail
    with pytest.raises(MigrationError, match="accept= is a text"):
        Migration("one", old="public", new="shop", accept="row security orders")


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("CREATE POLICY tenant_only ON shop.orders FOR SELECT USING (true)", "tenant_only of public.orders is not on"),
        ("CREATE POLICY tenant_only ON shop.orders USING (tenant = current_user)", "is not on shop.orders"),
        (
            "CREATE POLICY same ON shop.orders FOR SELECT USING (tenant = current_user);"
            "CREATE POLICY everyone ON shop.orders USING (true)",
            "everyone of shop.orders lets through",
        ),
        ("CREATE POLICY same ON shop.orders FOR SELECT USING (tenant  =  CURRENT_USER)", ""),
    ],
    ids=["another condition", "another command", "one more", "another name"],
)
async def test_a_policy_counts_by_what_it_does(database: Database, tmp_path: Path, policy: str, said: str) -> None:
    execute(database.dsn, [OLD, SECURED])
    secured = "ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY; ALTER TABLE shop.orders FORCE ROW LEVEL SECURITY;"
    found = await check(database, shop(tmp_path, f"{NEW}{secured}{policy};"))
    assert security(found) == ({"security.policies"} if said else set())
    assert said in found["security.policies"].detail


async def test_a_copy_that_renames_carries_its_policies(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, SECURED])
    migration = shop(tmp_path, NEW.replace("orders", "purchases").replace("tenant", "owner"))
    migration.transforms.clear()
    migration.copy("orders", into="purchases", rename={"tenant": "owner"})
    found = await check(database, migration)
    assert security(found) == {"security.row_security", "security.policies"}
    lines = [line for name in security(found) for line in statements(found[name])]
    (tmp_path / "new" / "30_constraints.sql").write_text("\n".join(lines))
    assert any('"purchases"' in line or "shop.purchases" in line for line in lines)
    assert security(await check(database, migration)) == set()


async def test_grants_that_a_role_had(database: Database, tmp_path: Path) -> None:
    """By what it may do in the end: itself, through a role that it is a member of, or as PUBLIC."""
    with roles(database, "web", "reader", "group", "owner") as (web, reader, group, owner):
        execute(
            database.dsn,
            [
                OLD,
                f"GRANT SELECT, INSERT, UPDATE ON orders TO {web}",
                f"GRANT SELECT (tenant) ON orders TO {reader}",
                f"GRANT {group} TO {web}",
                f"ALTER TABLE orders OWNER TO {owner}",
            ],
        )
        serial = NEW.replace("id integer GENERATED BY DEFAULT AS IDENTITY", "id serial")
        found = await check(database, shop(tmp_path, serial))
        assert security(found) == {"security.grants"}
        detail = found["security.grants"].detail
        assert f"{web} lacks USAGE on sequence shop.orders_id_seq, INSERT on shop.orders" in detail
        assert f"{reader} lacks SELECT on shop.orders" in detail
        assert f"{owner} lacks DELETE on shop.orders" in detail
        assert f"{web} lacks USAGE on schema shop" in detail
        given = serial + "\n".join(statements(found["security.grants"]))
        assert security(await check(database, shop(tmp_path, given))) == set()
        through = "\n".join(line for line in statements(found["security.grants"]) if web not in line)
        through += f"GRANT SELECT, INSERT, UPDATE ON shop.orders TO {group}; GRANT USAGE ON SCHEMA shop TO {group};"
        through += f"GRANT USAGE ON SEQUENCE shop.orders_id_seq TO {group};"
        assert security(await check(database, shop(tmp_path, serial + through))) == set()
        accept = [f"{what}.{role}" for role in (web, reader, owner) for what in ("grant orders", "usage shop")]
        assert security(await check(database, shop(tmp_path, serial, accept=accept))) == set()


async def test_what_is_lost_later_shuts_the_gate(database: Database, tmp_path: Path) -> None:
    """A policy or a role that comes after the check; a condition that is changed is seen by the cutover itself."""

    async def shut(running: Running, *facts: str) -> None:
        pipeline = running.active
        assert pipeline is not None
        await running.until(lambda: {each.name for each in pipeline.monitor.wrong} == set(facts))

    with roles(database, "web") as (web,):
        execute(database.dsn, [OLD])
        async with daemon(make_settings(database), shop(tmp_path)) as running:
            await running.ready()
            execute(database.dsn, [SECURED])
            await shut(running, "security.row_security", "security.policies")
            with pytest.raises(NotReadyError, match="Lost with the cutover"):
                await running.cut_over()
            execute(database.dsn, [SECURED.replace(" orders ", " shop.orders ").replace("current_user", "'a'")])
            await shut(running)
            with pytest.raises(NotReadyError, match="is not on"):
                await running.cut_over()
            execute(database.dsn, ["ALTER POLICY tenant_only ON shop.orders USING (tenant = current_user)"])
            execute(database.dsn, [f"GRANT UPDATE ON orders TO {web}"])
            await shut(running, "security.grants")
            execute(database.dsn, [f"GRANT UPDATE ON shop.orders TO {web}", f"GRANT USAGE ON SCHEMA shop TO {web}"])
            await shut(running)
            await running.in_the_end(running.cut_over)


async def test_all_else_is_named_and_its_statements_do_it(database: Database, tmp_path: Path) -> None:
    with roles(database, "web") as (web,):
        execute(
            database.dsn,
            [OLD, BELONGS, f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {web}"],
        )
        found = await check(database, shop(tmp_path))
        said = found["not_carried.public.orders"]
        assert said.outcome == "warn"
        for what in (
            "Trigger audited: does not fire for what is written to the new table.",
            "Comment on column total, comment on table: is not on the new table.",
            "Statistics together: is not there for the planner.",
            "Storage parameters: do not hold for the new table.",
        ):
            assert what in said.detail
        assert "default privileges of " in found["not_carried.public"].detail.lower()
        mended = await check(database, shop(tmp_path, with_remedies(found)))
        assert "not_carried" in mended, [each for each in mended.values() if each.check.startswith("not_carried")]
