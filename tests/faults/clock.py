"""The program with a wall clock that jumps: by as many seconds as the file says that FAULTS_CLOCK names."""

import contextlib
import datetime as dt
import os
import sys
import threading
import time
from pathlib import Path

VARIABLE = "FAULTS_CLOCK"
LOOK_SECONDS = 0.05

_time, _time_ns, _datetime = time.time, time.time_ns, dt.datetime
_offset = 0.0


class JumpingDatetime(dt.datetime):
    """The standard one, but for what the time is now."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "JumpingDatetime":
        """Now, as the jumping clock has it."""
        return cls.fromtimestamp(time.time(), tz)


def watch(file: Path) -> None:
    """Look into the file again and again."""
    global _offset  # noqa: PLW0603  there is one clock
    while True:
        with contextlib.suppress(OSError, ValueError):
            _offset = float(file.read_text())
        time.sleep(LOOK_SECONDS)


def main() -> int:
    """Change the clock, and only then let the program be imported."""
    time.time = lambda: _time() + _offset
    time.time_ns = lambda: _time_ns() + int(_offset * 1e9)
    dt.datetime = JumpingDatetime  # type: ignore[misc]
    threading.Thread(target=watch, args=(Path(os.environ[VARIABLE]),), daemon=True).start()
    from replicator.__main__ import main as program

    return program()


if __name__ == "__main__":
    sys.exit(main())
