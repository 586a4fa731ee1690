"""What the private Postgres is configured to."""

from collections.abc import Mapping
from pathlib import Path

from replicator.runtime.binaries import output_of

HOST = "127.0.0.1"
PLUGINS = "output_plugin_libraries"  # servers before the minors of August 2026 do not start with this setting

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "wal_level": "logical",
    "max_connections": "200",
    "max_wal_senders": "64",
    "max_replication_slots": "64",
    "max_prepared_transactions": "20",
    "track_commit_timestamp": "on",
    "logging_collector": "off",
    "log_destination": "stderr",
    "lc_messages": "C",
}


def settings_of(binaries: Path, sockets: Path | None, *, fsync: bool) -> dict[str, str]:
    """Settings for postgresql.conf, those of this server version only among them.

    :param sockets: the folder for the server's socket; with None it has none.
    """
    found = {**SETTINGS, "unix_socket_directories": str(sockets or "")}
    if not fsync:
        found |= {"fsync": "off", "full_page_writes": "off"}
    if PLUGINS in output_of([binaries / "postgres", "--describe-config"]):
        found[PLUGINS] = "pgoutput, test_decoding, wal2json"  # in the file (not in ALTER SYSTEM) this is three names
    return found


def quote_setting(value: str) -> str:
    """A value as postgresql.conf wants it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
