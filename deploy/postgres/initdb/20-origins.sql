-- The daemon marks its own writes with a replication origin, so that the way back does not see them again. These
-- functions are the superuser's until they are granted.
SELECT format('GRANT EXECUTE ON FUNCTION %s TO replicator', oid::regprocedure)
FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace
  AND proname IN (
      'pg_replication_origin_create',
      'pg_replication_origin_drop',
      'pg_replication_origin_oid',
      'pg_replication_origin_session_is_setup',
      'pg_replication_origin_session_reset',
      'pg_replication_origin_session_setup',
      'pg_replication_origin_xact_reset',
      'pg_replication_origin_xact_setup'
  )
\gexec
