"""Whose our two schemas are: no session of ours may run there what another role has planted."""

from typing import Any, Final

from psycopg import AsyncConnection

from replicator.errors import CheckError

# Membership is not enough: the daemon is a member of the application's role, and would run what that has planted. What
# superusers make is trusted. An object of a kind that is not listed is none of ours: it counts as a stranger's.
STRANGER: Final = """
    WITH home AS (
        SELECT n.oid, n.nspname, n.nspowner FROM pg_namespace n WHERE n.nspname IN ('_replicator', 'replicator')
    ), owners (what, owner) AS (
        SELECT 'The schema ' || nspname, nspowner FROM home
        UNION ALL
        SELECT 'In the schema ' || h.nspname || ' the ' || pg_describe_object(d.classid, d.objid, 0),
            coalesce(c.relowner, p.proowner, t.typowner)
        FROM home h JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = h.oid
        LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
        LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
        LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
        WHERE d.classid <> 'pg_default_acl'::regclass
    )
    SELECT o.what, quote_ident(r.rolname) FROM owners o
    JOIN pg_roles me ON me.rolname = current_user LEFT JOIN pg_roles r ON r.oid = o.owner
    WHERE r.oid IS DISTINCT FROM me.oid AND NOT (coalesce(r.rolsuper, false) AND {})
    LIMIT 1
"""


async def refuse_strangers(connection: AsyncConnection[Any], *, to_change: bool = False) -> None:
    """Raise CheckError when one of our schemas, or anything in it, belongs to neither this role nor a superuser.

    :param to_change: the session is to change it too: what is a superuser's is so only for another one.
    """
    cursor = await connection.execute(STRANGER.format("me.rolsuper" if to_change else "true").encode(), prepare=False)
    row = await cursor.fetchone()
    if row is not None:
        what, owner = row
        whose = f"belongs to the role {owner}" if owner is not None else "is none of the replicator's"
        raise CheckError(
            f"{what} {whose}; the role {connection.info.user} must not run what is there, nor change it.",
            "If that role has run the migration until now, run it as that role. Else find out who has made this, and "
            "what for; then drop that, or rename the schema: `ALTER SCHEMA ... RENAME TO ...;`",
        )
