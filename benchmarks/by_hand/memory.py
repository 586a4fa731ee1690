"""The daemon's peak of resident memory: `python -m benchmarks.by_hand.memory --wide 4000`, or `--rows 1000000`.

Wide rows through backfill, follow (all updated in one transaction) and verification; or a transaction of many ordinary
rows. The peak is the kernel's own (`VmHWM`), set back before each step.
"""

import argparse
import json
import tempfile
from pathlib import Path

import psycopg

from replicator.demo.embedded import Cluster, has_wal2json, installed_binaries, server_version
from tests.daemon import Daemon
from tests.engine import create_old_tables, execute, make_settings
from tests.fix_postgres import Database, Server
from tests.servers import Plugin

SECONDS = 3_600.0
PASSES = "SELECT coalesce((document -> 'verify' ->> 'passes')::int, 0) FROM _replicator.status"
INSERT = (
    "INSERT INTO requests (id, track_uri, track_name, artist_name, album_name, album_image_url, duration_ms, "
    "requester_ip_hash, requester_nickname) SELECT 'r' || i, 'spotify:track:' || md5(i::text), "
    "{name}, 'An artist', 'An album', 'https://i.scdn.co/image/' || md5(i::text), i, "
    "md5('x' || i), 'guest' || i % 100 FROM generate_series({first}, {last}) i"
)


class Peaks:
    """Of one process, by what it was doing, in megabytes."""

    def __init__(self, daemon: Daemon) -> None:
        self._folder = Path(f"/proc/{daemon.process.pid}")
        self.found: dict[str, float] = {}

    def begin(self) -> None:
        """From now on."""
        (self._folder / "clear_refs").write_text("5")

    def end(self, name: str) -> None:
        """Until now."""
        status = (self._folder / "status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        self.found[name] = round(int(peak.split()[1]) / 1024)
        self.begin()


def wide(database: Database, daemon: Daemon, rows: int, kilobytes: int) -> dict[str, float]:
    """Backfill, follow and verification of wide rows."""
    name = f"(SELECT string_agg(md5(i || ' ' || part), '') FROM generate_series(1, {kilobytes * 32}) part)"
    for first in range(1, rows + 1, 100):
        last = min(first + 99, rows)
        execute(database.dsn, [INSERT.format(name=name, first=first, last=last)])
    daemon.start()
    peaks = Peaks(daemon)
    daemon.until("SELECT phase FROM _replicator.state", lambda phase: phase == "follow", SECONDS)
    peaks.end("backfill")
    execute(database.dsn, ["UPDATE requests SET track_name = md5(id) || substr(track_name, 33)"])
    daemon.drain(SECONDS)
    peaks.end("follow")
    begun = daemon.ask(PASSES)
    daemon.until(PASSES, lambda passes: passes > begun, SECONDS)
    peaks.end("verify")
    return peaks.found


def many(database: Database, daemon: Daemon, rows: int) -> dict[str, float]:
    """One transaction."""
    daemon.start()
    daemon.until_phase("follow")
    peaks = Peaks(daemon)
    peaks.begin()
    execute(database.dsn, [INSERT.format(name="'A song of middling length'", first=1, last=rows)])
    daemon.drain(SECONDS)
    peaks.end("follow")
    return peaks.found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wide", type=int, help="rows")
    parser.add_argument("--kilobytes", type=int, default=256)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--plugin", choices=["pgoutput", "wal2json"], default="pgoutput")
    given = parser.parse_args()
    binaries = next(each for each in installed_binaries() if given.plugin == "pgoutput" or has_wal2json(each))
    with Cluster(binaries) as cluster, tempfile.TemporaryDirectory() as folder:
        plugin: Plugin = given.plugin
        server = Server(server_version(binaries), plugin, cluster.dsn(), cluster)
        with psycopg.connect(cluster.dsn(), autocommit=True) as opened:
            opened.execute("CREATE DATABASE app")
        database = Database("app", cluster.dsn("app"), plugin, server.version, server)
        create_old_tables(database.dsn)
        execute(database.dsn, ["INSERT INTO event_settings (id, event_title) VALUES (1, 'party')"])
        settings = make_settings(database).model_copy(update={"chunk_rows": 5_000, "batch_rows": 5_000})
        daemon = Daemon(settings, Path(folder) / "daemon.log")
        try:
            found = (
                wide(database, daemon, given.wide, given.kilobytes)
                if given.wide
                else many(database, daemon, given.rows)
            )
        finally:
            daemon.end()
    print(json.dumps(found, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
