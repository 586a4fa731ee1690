"""Feeds a target for a long time, led by what its code does: `python -m tests.fuzz wal2json --seconds 600`.

Needs atheris (`pip install atheris`), which is no part of the development set-up.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

NAMES = ("pgoutput", "wal2json", "frames")
LIMITS = ("-rss_limit_mb=1024", "-timeout=10", "-max_len=65536", "-print_final_stats=1")
"""Of all memory, and seconds for one input: beyond either it is a failure."""


def main() -> None:
    """Feed until the time is over; a failure is printed, and its input kept in the current folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=600)
    arguments = parser.parse_args()
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["replicator"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[arguments.target]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(target.seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], folder, f"-max_total_time={arguments.seconds}", *LIMITS], target.feed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
