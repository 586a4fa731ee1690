"""What checks ask of databases and tables beyond what a Table tells: rights, kinds, triggers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from replicator.core.tables import Name
from replicator.postgres.control.owned import foreign_publications, foreign_schema, schema_is_ours
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.control.trigger_names import GUARD, GUARD_ROWS, NOTES
from replicator.postgres.session.connect import Connection, identifier, translated
from replicator.postgres.session.server import fetch, fetch_plain

Privilege = Literal["SELECT", "INSERT", "UPDATE", "DELETE"]

DATABASE = """
    SELECT current_database()::text AS name, quote_ident(current_database()) AS quoted,
           quote_ident(current_user) AS role,
           getdatabaseencoding()::text AS encoding,
           has_database_privilege(current_database(), 'CREATE') AS may_create,
           has_database_privilege(current_database(), 'TEMPORARY') AS may_stage,
           ARRAY(SELECT DISTINCT coalesce(nullif(application_name, ''), '(no name)') FROM pg_stat_activity
                 WHERE usename = current_user AND datname = current_database() AND backend_type = 'client backend'
                   AND application_name NOT LIKE 'replicator %%' ORDER BY 1) AS others_as_us,
           ARRAY(SELECT format('%%s AS %%s', format_type(c.castsource, NULL), format_type(c.casttarget, NULL))
                 FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc JOIN pg_roles r ON r.oid = p.proowner
                 WHERE c.casttarget IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
                   AND NOT r.rolsuper AND r.rolname <> current_user
                   -- Of a type that no table here has, anybody could make one, and hold everything up.
                   AND EXISTS (SELECT FROM pg_attribute a JOIN pg_class k ON k.oid = a.attrelid
                               JOIN pg_namespace n ON n.oid = k.relnamespace JOIN pg_type t ON t.oid = a.atttypid
                               WHERE n.nspname = %(schema)s AND k.relkind IN ('r', 'p', 'f') AND NOT a.attisdropped
                                 AND c.castsource IN (t.oid, t.typbasetype, t.typelem))
                 ORDER BY 1) AS foreign_casts,
           EXISTS (SELECT FROM pg_namespace WHERE nspname = %(schema)s) AS has_schema,
           format('%%I', %(schema)s::text) AS schema,
           ARRAY(SELECT p FROM pg_namespace CROSS JOIN unnest('{USAGE,CREATE}'::text[]) p
                 WHERE nspname = %(schema)s AND NOT has_schema_privilege(oid, p)) AS lacking_on_schema
"""

# Tables, and the leaves of partitioned ones, in whatever schema a leaf is. There may be thousands: each catalogue is
# read once for all of them, and a leaf that has nothing of its own to tell is only counted.
RELATIONS = """
    WITH RECURSIVE relations AS MATERIALIZED (
        SELECT c.oid, c.relname, c.relnamespace, c.relkind, c.relispartition, c.relpersistence, c.relreplident,
               c.relowner, c.relrowsecurity, c.relhasrules
        FROM pg_class c WHERE c.relkind IN ('r', 'p', 'f')
    ), heirs AS MATERIALIZED (
        SELECT i.inhparent, c.oid, c.relkind, c.relispartition, c.relnamespace, c.relname,
               CASE WHEN i.inhdetachpending THEN i.inhparent END AS half_of
        FROM pg_inherits i JOIN relations c ON c.oid = i.inhrelid
    ), tree AS (
        SELECT c.oid AS root, c.oid, c.relkind, NULL::oid AS half_of
        FROM relations c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        UNION ALL
        SELECT t.root, h.oid, h.relkind, h.half_of FROM tree t JOIN heirs h ON h.inhparent = t.oid AND h.relispartition
    ), children AS (
        SELECT h.inhparent, array_agg(format('%%I.%%I', n.nspname, h.relname) ORDER BY n.nspname, h.relname) AS names
        FROM heirs h JOIN pg_namespace n ON n.oid = h.relnamespace WHERE NOT h.relispartition GROUP BY 1
    ), foreign_triggers AS (
        SELECT t.tgrelid, array_agg(quote_ident(t.tgname) ORDER BY t.tgname) AS names
        FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
        WHERE %(triggers)s AND NOT t.tgisinternal AND t.tgenabled <> 'D'
          AND f.pronamespace IS DISTINCT FROM to_regnamespace('_replicator')::oid
          AND position('replicator.writer' IN f.prosrc) = 0
          AND CASE WHEN t.tgqual IS NULL THEN true
              ELSE position('replicator.writer' IN pg_get_triggerdef(t.oid)) = 0 END
        GROUP BY 1
    ), taken AS (
        SELECT t.tgrelid, array_agg(quote_ident(t.tgname) ORDER BY t.tgname) AS names
        FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
        WHERE t.tgname = ANY (%(ours)s::text[]) AND t.tgparentid = 0
          AND f.pronamespace IS DISTINCT FROM to_regnamespace('_replicator')::oid
        GROUP BY 1
    ), primaries AS (
        SELECT indrelid FROM pg_index WHERE indisprimary AND indimmediate
    ), telling AS (
        SELECT t.root, c.*, g.names AS triggers
        FROM tree t JOIN relations c ON c.oid = t.oid
        LEFT JOIN primaries k ON k.indrelid = t.oid LEFT JOIN foreign_triggers g ON g.tgrelid = t.oid
        LEFT JOIN taken y ON y.tgrelid = t.oid
        WHERE t.oid = t.root OR c.relkind <> 'p' AND (
            c.relkind <> 'r' OR c.relpersistence <> 'p' OR c.relreplident <> 'd' OR k.indrelid IS NULL
            OR c.relrowsecurity OR c.relhasrules OR g.tgrelid IS NOT NULL OR y.tgrelid IS NOT NULL
            OR NOT CASE WHEN c.relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user) THEN true
                   ELSE pg_has_role(c.relowner, 'USAGE') END)
    ), leaves AS (
        SELECT root, count(*)::int AS number FROM tree WHERE oid <> root AND relkind <> 'p' GROUP BY 1
    ), half_detached AS (
        SELECT t.root, array_agg(format('%%I.%%I DETACH PARTITION %%I.%%I', pn.nspname, p.relname, n.nspname, c.relname)
                                 ORDER BY n.nspname, c.relname) AS statements
        FROM tree t JOIN relations c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN relations p ON p.oid = t.half_of JOIN pg_namespace pn ON pn.oid = p.relnamespace GROUP BY 1
    ), written_through AS (
        SELECT t.root, array_agg(DISTINCT quote_ident(s.subname) ORDER BY quote_ident(s.subname)) AS names
        FROM pg_subscription_rel r JOIN tree t ON t.oid = r.srrelid JOIN pg_subscription s ON s.oid = r.srsubid
        GROUP BY 1
    )
    SELECT root.relname AS table, format('%%I.%%I', n.nspname, c.relname) AS quoted, c.root <> c.oid AS is_leaf,
           coalesce(leaves.number, 0) AS leaves, coalesce(half_detached.statements, '{}') AS half_detached,
           CASE WHEN c.relispartition THEN (SELECT format('%%I.%%I', pn.nspname, p.relname) FROM pg_inherits i
                JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
                WHERE i.inhrelid = c.oid) END AS parent,
           c.relkind::text AS kind, c.relpersistence::text AS persistence, c.relreplident::text AS identity,
           ARRAY(SELECT a.attname::text FROM pg_index i
                 CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place)
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
                 WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY k.place) AS key,
           (SELECT quote_ident(k.relname) FROM pg_index i JOIN pg_class k ON k.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND i.indisprimary AND NOT i.indimmediate) AS deferrable_key,
           ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
                 ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
                 WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid) AS index_identity,
           coalesce(children.names, '{}') AS children,
           ARRAY(SELECT quote_ident(k.relname) FROM pg_index i JOIN pg_class k ON k.oid = i.indexrelid
                 WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary
                 ORDER BY 1) AS uniques,
           row_security_active(c.oid) AS filtered,
           quote_ident(pg_get_userbyid(c.relowner)) AS owner,
           (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = c.relowner) AS of_superuser,
           pg_has_role(c.relowner, 'USAGE') AS owned,
           ARRAY(SELECT p FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p
                 WHERE NOT has_table_privilege(c.oid, p)) AS lacking,
           ARRAY(SELECT format('%%I.%%I', sn.nspname, s.relname) FROM pg_depend d
                 JOIN pg_class s ON s.oid = d.objid JOIN pg_namespace sn ON sn.oid = s.relnamespace
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                   AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')
                   AND CASE WHEN s.relkind = 'S' THEN NOT (has_sequence_privilege(s.oid, 'UPDATE')
                        AND has_sequence_privilege(s.oid, 'SELECT')) END
                 ORDER BY 1) AS locked_sequences,
           coalesce(c.triggers, '{}') AS triggers, coalesce(taken.names, '{}') AS taken,
           CASE WHEN c.relhasrules THEN ARRAY(SELECT quote_ident(r.rulename) FROM pg_rewrite r
                                              WHERE r.ev_class = c.oid ORDER BY 1) ELSE '{}' END AS rules,
           coalesce(w.names, '{}') AS subscriptions,
           ARRAY(SELECT a.attname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND (t.oid = 'oid'::regtype OR t.typbasetype = 'oid'::regtype) ORDER BY 1) AS oid_columns,
           ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
                 AND a.attgenerated = 's' ORDER BY 1) AS stored,
           ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
                 AND a.attgenerated = 'v' ORDER BY 1) AS virtual,
           (SELECT true FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND d.deptype = 'e' LIMIT 1) IS NOT NULL AS of_extension
    FROM telling c JOIN relations root ON root.oid = c.root JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN half_detached ON half_detached.root = c.oid
    LEFT JOIN leaves ON leaves.root = c.oid LEFT JOIN written_through w ON w.root = c.oid
    LEFT JOIN children ON children.inhparent = c.oid LEFT JOIN taken ON taken.tgrelid = c.oid
    ORDER BY root.relname, c.root <> c.oid, 2
"""


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database as one role sees it; ``quoted``, ``role`` and ``schema`` are quoted for SQL."""

    name: str
    quoted: str
    role: str
    encoding: str
    may_create: bool
    may_stage: bool
    others_as_us: list[str]
    """The applications whose sessions run as this role, and are none of ours."""
    foreign_casts: list[str]
    """Casts to text that call a function of another role, no superuser; types quoted for SQL."""
    has_schema: bool
    schema: str
    taken: str | None
    """What the schema ``replicator`` is, where it is not ours."""
    foreign_publications: tuple[str, ...]
    """Those that bear our names, and that we have not made; quoted for SQL."""
    lacking_on_schema: list[str]
    """USAGE or CREATE, where the role has it not."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table or a leaf of one; ``table`` is the name without schema of the table that it is or belongs to."""

    table: str
    quoted: str
    is_leaf: bool
    leaves: int
    """Of a partitioned table: how many it has. Those that are as any other are not listed themselves."""
    half_detached: list[str]
    """Of a partitioned table: ``parent DETACH PARTITION name``, quoted, for each CONCURRENTLY that has not ended."""
    parent: str | None
    """Of a leaf: what it is a partition of, quoted."""
    kind: str
    persistence: str
    identity: str
    """As in pg_class.relreplident: d(efault), n(othing), f(ull), i(ndex)."""
    key: list[str]
    deferrable_key: str | None
    """The primary key's name, where it is deferrable: such a key identifies no row in the log."""
    index_identity: list[str]
    """The columns of the index that REPLICA IDENTITY USING INDEX names."""
    children: list[str]
    uniques: list[str]
    """Unique and exclusion indexes other than the primary key's."""
    filtered: bool
    """Row level security hides rows from the role."""
    owner: str
    of_superuser: bool
    """Nobody must act for its owner."""
    owned: bool
    lacking: list[Privilege]
    locked_sequences: list[str]
    triggers: list[str]
    """Of others than us, switched on, and blind to the setting replicator.writer."""
    taken: list[str]
    """Triggers of others that bear our triggers' names."""
    rules: list[str]
    """Whether they are switched on or off: Postgres refuses ON CONFLICT for one that is off, too."""
    subscriptions: list[str]
    """Of this database, whose changes are written to the table or to a partition of it."""
    oid_columns: list[str]
    stored: list[str]
    virtual: list[str]
    of_extension: bool


async def read_database(connection: Connection, schema: str, publications: Iterable[str] = ()) -> Database:
    """Facts about the connection's database, and about one of its schemas.

    :param publications: the names of those that will be made in it.
    """
    (facts,) = await fetch_plain(connection, DATABASE, schema=schema)
    foreign = await foreign_schema(connection)
    taken = await foreign_publications(connection, publications)
    return Database(
        **facts,
        taken=foreign.problem if foreign is not None else None,
        foreign_publications=tuple(identifier(each).as_string(connection) for each in taken),
    )


async def read_relations(connection: Connection, schema: str, *, triggers: bool = True) -> list[Relation]:
    """The tables of a schema as the migration calls them, each followed by those of its leaves that stand out.

    :param connection: of any kind; what it reads keeps nobody from the tables, and waits for nobody.
    :param triggers: look at them too: where a trigger has a WHEN, that waits for whoever has locked its table.
    """
    places = await read_places(connection)
    where = places.schema(schema)
    found = await fetch_plain(connection, RELATIONS, schema=where, triggers=triggers, ours=[GUARD, GUARD_ROWS, *NOTES])
    named = [(places.called(schema, Name(schema=where, table=each["table"])), each) for each in found]
    return [Relation(**each | {"table": called}) for called, each in named if called is not None]


async def control_migration(connection: Connection) -> str | None:
    """The migration that the control tables belong to; None without them."""
    if not await schema_is_ours(connection):
        return None
    found = await fetch(connection, "SELECT migration FROM _replicator.ownership")
    return str(found[0]["migration"]) if found else None


async def tables_with_rows(connection: Connection, schema: str, tables: Iterable[str]) -> list[str]:
    """Those of these tables that hold any row."""
    found = []
    for table in tables:
        with translated():
            cursor = await connection.execute(
                sql.SQL("SELECT EXISTS (SELECT FROM {})").format(identifier(schema, table))
            )
            row = await cursor.fetchone()
        if row and row[0]:
            found.append(table)
    return found
