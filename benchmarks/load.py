"""The application: pgbench at a set rate."""

import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.ground import Ground, Missing
from replicator.demo.embedded import HOST

SCRIPT = """\
INSERT INTO public.requests SELECT given.* FROM nextval('bench.serial') AS n, LATERAL bench.requests(n, n) AS given;
"""
CLIENTS = 4


def pgbench(ground: Ground) -> Path:
    """The server's own, else that on the PATH. Raises Missing."""
    own = ground.cluster.binaries / "pgbench"
    found = str(own) if own.exists() else shutil.which("pgbench")
    if found is None:
        raise Missing("pgbench is not installed")
    return Path(found)


def insert_paced(ground: Ground, database: str) -> float:
    """Insert requests one by one at the scale's rate, for its time.

    Returns the average latency in milliseconds: of a transaction, from when it was due.
    """
    program = pgbench(ground)
    script = ground.folder / "paced.sql"
    script.write_text(SCRIPT)
    scale = ground.scale
    told = subprocess.run(
        [
            program, "-n", "-f", script, "-R", str(scale.rate), "-T", str(scale.paced_seconds), "-c", str(CLIENTS),
            "-j", "2", "-h", HOST, "-p", str(ground.cluster.port), "-U", "postgres", database,
        ],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    latency = re.search(r"latency average = ([\d.]+) ms", told)
    if latency is None:
        raise Missing(f"pgbench does not say what the latency is: {told!r}")
    return float(latency[1])
