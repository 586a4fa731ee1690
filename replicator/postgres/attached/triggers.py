"""What Postgres runs for a statement on a table: triggers, rules, policies."""

from collections.abc import Iterator
from typing import Any, Final

from replicator.postgres.attached.deparsed import alter, at
from replicator.postgres.attached.item import Attached, Own, Text

# Of ours, and of what Postgres makes (foreign keys, clones on partitions), there is nothing to carry over.
TRIGGERS: Final = """
    SELECT t.tgrelid::int8 AS oid, t.tgname AS name, quote_ident(t.tgname) AS quoted_name,
           pg_get_triggerdef(t.oid) AS definition, {state} AS state,
           format('%%I.%%I', n.nspname, c.relname) AS table_name,
           format('%%I.%%I', fn.nspname, f.proname) AS function
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_namespace fn ON fn.oid = f.pronamespace
    WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND NOT t.tgisinternal AND t.tgparentid = 0
      AND fn.nspname <> '_replicator'
    ORDER BY t.tgrelid, t.tgname
"""
STATE: Final = "t.tgenabled::text"
RESTING: Final = """coalesce((SELECT r.was::text FROM _replicator.resting r
    WHERE r.trigger = t.oid AND r.relation = t.tgrelid AND t.tgenabled = 'D'), t.tgenabled::text)"""
"""How a trigger that rests will be given back."""

RULES: Final = """
    SELECT r.ev_class::int8 AS oid, r.rulename AS name, quote_ident(r.rulename) AS quoted_name,
           pg_get_ruledef(r.oid) AS definition, r.ev_enabled::text AS state,
           format('%%I.%%I', n.nspname, c.relname) AS table_name
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE r.ev_class = ANY (%(oids)s::oid[]) AND r.rulename <> '_RETURN'
    ORDER BY r.ev_class, r.rulename
"""

POLICIES: Final = """
    SELECT p.polrelid::int8 AS oid, p.polname AS name, p.polpermissive AS permissive, p.polcmd::text AS command,
           (SELECT string_agg(coalesce(quote_ident(a.rolname), 'PUBLIC'), ', ' ORDER BY a.rolname)
            FROM unnest(p.polroles) u(role) LEFT JOIN pg_roles a ON a.oid = u.role) AS roles,
           pg_get_expr(p.polqual, p.polrelid) AS condition, pg_get_expr(p.polwithcheck, p.polrelid) AS checked
    FROM pg_policy p WHERE p.polrelid = ANY (%(oids)s::oid[])
    ORDER BY p.polrelid, p.polname
"""

STATES: Final = {"R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "D": "DISABLE"}
COMMANDS: Final = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}


def of_trigger(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``TRIGGERS`` says, with the table's oid."""
    constraint = row["definition"].startswith("CREATE CONSTRAINT ")
    made = f"CREATE {'CONSTRAINT ' if constraint else ''}TRIGGER "
    before, after = at(row["definition"].removeprefix(made + row["quoted_name"]), "ON", row["table_name"])
    yield (
        row["oid"],
        Attached(
            kind="trigger",
            name=row["name"],
            statements=((made, Own.NAME, before, Own.TABLE, after), *_state(row, "TRIGGER")),
            function=row["function"],
        ),
    )


def of_rule(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``RULES`` says, with the table's oid."""
    rest = row["definition"].removeprefix(f"CREATE RULE {row['quoted_name']}").rstrip().removesuffix(";")
    before, after = at(rest, "TO", row["table_name"])
    made: Text = ("CREATE OR REPLACE RULE ", Own.NAME, before, Own.TABLE, after)
    yield row["oid"], Attached(kind="rule", name=row["name"], statements=(made, *_state(row, "RULE")))


def _state(row: dict[str, Any], what: str) -> tuple[Text, ...]:
    state = STATES.get(row["state"])
    return ((*alter(f"{state} {what} "), Own.NAME),) if state else ()


def of_policy(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``POLICIES`` says, with the table's oid."""
    text = "" if row["permissive"] else " AS RESTRICTIVE"
    text += f" FOR {COMMANDS[row['command']]}" if row["command"] in COMMANDS else ""
    text += f" TO {row['roles']}" if row["roles"] not in (None, "PUBLIC") else ""
    text += f" USING ({row['condition']})" if row["condition"] is not None else ""
    text += f" WITH CHECK ({row['checked']})" if row["checked"] is not None else ""
    made: Text = ("CREATE POLICY ", Own.NAME, " ON ", Own.TABLE, text)
    yield row["oid"], Attached(kind="policy", name=row["name"], statements=(made,))
