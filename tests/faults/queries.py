"""What a run asks of the databases, and how it has the daemon do something."""

from typing import Final

PING: Final = "ALTER DATABASE {} SET wal_sender_timeout = '6s'"
"""The server then asks for an answer after half of that, and the daemon stores an idle stream's position for it."""
RELATIONS: Final = """
SELECT relkind::text, relnamespace::regnamespace::text, relname::text FROM pg_class
WHERE relnamespace IN (to_regnamespace('public'), to_regnamespace('party')) AND relkind IN ('r', 'i', 'S')
"""
VERIFIED: Final = """
SELECT bool_and((gate ->> 'ok')::boolean) FROM _replicator.status, jsonb_array_elements(document -> 'gates') AS gate
WHERE gate ->> 'name' = 'verified' AND updated_at > clock_timestamp() - interval '5 seconds'
"""
COMPARED: Final = "SELECT count(*) FROM _replicator.commands WHERE command = 'verify' AND exit_code = 0 AND id > %s"
ASK: Final = "INSERT INTO _replicator.commands (command, arguments) VALUES (%s, %s) RETURNING id"
ANSWERED: Final = "SELECT finished_at IS NOT NULL FROM _replicator.commands WHERE id = %s"
