"""On what it was measured."""

import os
import platform
import subprocess
from pathlib import Path

import psutil

from replicator.demo.embedded import Cluster
from replicator.runtime.binaries import output_of


def describe(cluster: Cluster) -> dict[str, str]:
    """Hardware, load and versions, in words. ``hardware`` is alike on machines whose figures can be compared."""
    gigabytes = round(psutil.virtual_memory().total / 2**30)
    return {
        "hardware": f"{psutil.cpu_count()} cores ({_processor()}), {gigabytes} GB of memory",
        "load": f"{os.getloadavg()[0]:.1f} processes wanted to run before it began",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "postgres": output_of([cluster.binaries / "postgres", "--version"]).strip(),
        "plugin": "wal2json" if cluster.has_wal2json else "pgoutput",
        "commit": _commit(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 -- whichever git is there
        cwd=Path(__file__).parent, check=False, capture_output=True, text=True,
    )  # fmt: skip
    return told.stdout.strip() or "not in a repository"
