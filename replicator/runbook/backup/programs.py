"""Running pg_dump and pg_restore: listened to, and never left behind."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from replicator.errors import ReplicatorError

LONGEST_LINE = 1 << 24
STOP_SECONDS = 10.0
COPY_FAILED = re.compile(r'COPY failed for table "[^"]*"')
NEWER_SETTING = 'unrecognized configuration parameter "transaction_timeout"'
"""What pg_restore 17 and later sets on every server, and older servers do not know: harmless."""


class BackupError(ReplicatorError):
    """A backup cannot be made, or what was made cannot be restored."""

    kind = "backup"


async def run_program(
    command: Sequence[str | Path], environment: Mapping[str, str], hear: Callable[[str], None]
) -> None:
    """Run a program to its end; it is stopped when the caller is.

    :param hear: told each line of its standard error.
    :raises BackupError: with the first error that it printed; no row value is in the text.
    """
    name = Path(command[0]).name
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
    )
    problems, harmless = [], 0
    try:
        assert process.stderr is not None  # noqa: S101  # it is a pipe
        async for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            hear(line)
            if NEWER_SETTING in line:
                harmless += 1
            elif line.startswith(f"{name}: error: "):
                problems.append(_without_values(line.removeprefix(f"{name}: error: ")))
        code = await process.wait()
    finally:
        await _stop(process)
    if problems or (code and not harmless):
        raise BackupError(f"{name} failed: {problems[0] if problems else f'it ended with {code}'}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End it if it still runs: it ends its own workers when it is asked to, and they when it is gone."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _without_values(line: str) -> str:
    """The message, cut where COPY would quote the row that it could not read."""
    found = COPY_FAILED.search(line)
    return f"{found.group()}." if found else line
