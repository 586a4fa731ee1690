"""What stops a private Postgres when the process that started it is gone, in whatever way, SIGKILL too.

A guard is a small shell process in a session of its own, which holds the reading end of a pipe. When its owner ends,
the pipe closes, and the guard stops the server and removes its folder.
"""

import contextlib
import subprocess
from pathlib import Path

# Reads process ids, one a line (an empty line: none). At the end of its input it stops the last one.
SCRIPT = """
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null; then
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -KILL "$pid" 2>/dev/null
fi
for _ in 1 2 3 4 5; do rm -rf "$1" && break; sleep 1; done
"""


class Guard:
    """Watches over one process at a time, and over a folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "replicator-guard", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def watch(self, pid: int | None) -> None:
        """Watch over this process from now on; None: over none, it has been stopped."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{'' if pid is None else pid}\n".encode())
                self._process.stdin.flush()

    def dismiss(self) -> None:
        """Let it do its work and go: the process it watches over is stopped, the folder removed."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()
