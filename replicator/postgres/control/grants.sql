-- What others may do with the control tables and functions: what is wanted here is granted, all else is taken back. Runs at
-- each start. What is as it should be is not touched: GRANT and REVOKE write the object's row in the catalogue, and whoever
-- has any right on it can hold that row for as long as he likes, by a GRANT that grants nothing.
SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        WITH RECURSIVE trees (function, oid) AS (
            SELECT '_replicator.note_deleted()', relation FROM _replicator.noted
            UNION SELECT '_replicator.refuse_write()', relation FROM _replicator.closed
            UNION SELECT t.function, i.inhrelid FROM trees t JOIN pg_inherits i ON i.inhparent = t.oid
        ), homes AS (
            SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname IN ('_replicator', 'replicator')
        ), relations AS (
            SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid, c.relowner, c.relacl,
                format('%I.%I', h.nspname, c.relname) AS name
            FROM homes h JOIN pg_class c ON c.relnamespace = h.oid WHERE c.relkind IN ('r', 'v', 'S', 'm', 'p', 'f')
        ), objects (kind, name, owner, acl) AS (
            SELECT 'SCHEMA', quote_ident(nspname), nspowner, nspacl FROM homes
            UNION ALL SELECT kind, name, relowner, relacl FROM relations
            UNION ALL SELECT r.kind, r.name, r.relowner, t.attacl FROM relations r JOIN pg_attribute t ON t.attrelid = r.oid
            UNION ALL SELECT 'ROUTINE', p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
            FROM homes h JOIN pg_proc p ON p.pronamespace = h.oid
        ), granted AS (
            SELECT o.kind, o.name, a.grantee, a.privilege_type AS privilege, bool_or(a.is_grantable) AS grantable
            FROM objects o, aclexplode(o.acl) a WHERE a.grantee <> o.owner GROUP BY 1, 2, 3, 4
        ), wanted (kind, name, grantee, privilege) AS (
            VALUES ('SCHEMA', 'replicator', 0::oid, 'USAGE'), ('TABLE', '_replicator.active', 0, 'SELECT'),
                ('ROUTINE', 'replicator.active_schema()', 0, 'EXECUTE'),
                ('ROUTINE', 'replicator.use_new_schema()', 0, 'EXECUTE')
            -- Whoever makes a partition makes its triggers, and must be allowed to. They do nothing on tables of his own.
            UNION SELECT 'ROUTINE', t.function, c.relowner, 'EXECUTE'
            FROM trees t JOIN pg_class c ON c.oid = t.oid WHERE c.relkind = 'p'
        ), excess AS (
            SELECT DISTINCT g.kind, g.name, g.grantee FROM granted g LEFT JOIN wanted w USING (kind, name, grantee, privilege)
            WHERE w.kind IS NULL OR g.grantable
        ), lacking AS (
            SELECT w.* FROM wanted w JOIN (SELECT DISTINCT kind, name, owner FROM objects) o USING (kind, name)
            WHERE w.grantee <> o.owner AND (
                EXISTS (SELECT FROM excess e WHERE (e.kind, e.name, e.grantee) = (w.kind, w.name, w.grantee))
                OR NOT EXISTS (SELECT FROM granted g WHERE (g.kind, g.name, g.grantee, g.privilege)
                               = (w.kind, w.name, w.grantee, w.privilege)))
        ), statements AS (
            SELECT 1 AS step, grantee, format('REVOKE ALL ON %s %s FROM ', kind, name) || '%s CASCADE' AS form FROM excess
            UNION ALL SELECT 2, grantee, format('GRANT %s ON %s %s TO ', privilege, kind, name) || '%s' FROM lacking
            UNION ALL
            SELECT 1, a.grantee, format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I REVOKE ALL ON %s FROM ',
                current_user, h.nspname, CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
                WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END) || '%s'
            FROM homes h JOIN pg_default_acl d ON d.defaclnamespace = h.oid, aclexplode(d.defaclacl) a
            WHERE pg_get_userbyid(d.defaclrole) = current_user
        )
        SELECT format(form, CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
        FROM statements ORDER BY step, form
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
