"""Hooks: a command and a URL of the user's, told of each phase, and asked before the writers are held."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, cast

from replicator.core.epochs import OwnershipEpoch
from replicator.daemon import posting
from replicator.errors import HookError, NotReadyError, ReplicatorError
from replicator.migration import Migration
from replicator.observe.metrics import Metrics
from replicator.postgres.control.control import Owner, journal
from replicator.postgres.control.ownership import Ownership
from replicator.postgres.session.connect import connection
from replicator.runtime.log import get_logger
from replicator.runtime.retrying import retry
from replicator.settings import Settings
from replicator.switchover.phases import Phase

log = get_logger("hooks")

SECONDS = 10.0
"""The longest that one call may take."""
TRIES = 3
"""How often a URL is called that does not answer, or answers that it is busy; a command is run once."""
FIRST_PAUSE = 0.5
"""Seconds; each further one is twice as long."""
SAID_BYTES = 4_000
SAID_LINES = 3
SAID_CHARACTERS = 400
CLOSING_SECONDS = 0.5
"""How long what a killed command has written may take to arrive."""
HTTP_OK, HTTP_BROKEN = 200, 500
HTTP_BUSY = (408, 429)
OURS = ("REPLICATOR_", "PG")
"""Variables that may hold connection strings and passwords: no command gets them."""

Document = dict[str, object]
"""What a hook is told, by name; it is sent as JSON."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where the migration stands at an event: the phase before and after it, and who owns the data."""

    before: Phase
    after: Phase
    owner: Owner
    epoch: OwnershipEpoch
    renamed: bool = False
    """The new tables are in the old schema."""

    @classmethod
    def of(cls, before: Phase, after: Phase, now: Ownership) -> "Moment":
        """With the state row as it is."""
        return cls(before=before, after=after, owner=now.owner, epoch=now.epoch, renamed=now.renamed)


class Hooks:
    """Calls what is set in REPLICATOR_HOOK_COMMAND and REPLICATOR_HOOK_URL; nothing if neither is.

    ``before`` asks, and waits for the answer. ``after`` only notes: a task of its own calls in order, as long as this
    context is open, and what fails is reported and stops nothing.
    """

    def __init__(
        self,
        settings: Settings,
        migration: Migration,
        metrics: Metrics,
        on_failure: Callable[[ReplicatorError], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._migration = migration
        self._metrics = metrics
        self._on_failure = on_failure
        self._ways = [name for name, given in (("command", settings.hook_command), ("url", settings.hook_url)) if given]
        self._due: asyncio.Queue[Document] = asyncio.Queue()
        self._unfinished: list[str] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def given(self) -> bool:
        """Whether there is anything to call."""
        return bool(self._ways)

    async def __aenter__(self) -> Self:
        """Begin to call what ``after`` notes."""
        self._task = asyncio.create_task(self._work(), name="hooks")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop at once: the call that runs is ended, the others are not made."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._unfinished:
            log.warning("hooks not called: the daemon stops", events=self._unfinished)

    async def before(self, event: str, moment: Moment) -> None:
        """Ask whether it may go on.

        :raises NotReadyError: a hook failed, or did not end in time; with what it said.
        """
        for way in self._ways:
            error = await self._call(way, self._document(event, moment), tries=1)
            if error is not None:
                raise NotReadyError(
                    f"{error.problem.removesuffix('.')}. Nothing has moved.",
                    f"Mend what it asks for, or start the daemon without REPLICATOR_HOOK_{way.upper()}; try again.",
                )

    def after(self, event: str, moment: Moment) -> None:
        """Note that something has happened; gives at once."""
        if self._ways:
            self._unfinished.append(event)
            self._due.put_nowait(self._document(event, moment))

    async def finish(self) -> None:
        """Wait until all that has been noted is called."""
        await self._due.join()

    def _document(self, event: str, moment: Moment) -> Document:
        names = {"old": self._migration.old, "new": self._migration.old if moment.renamed else self._migration.new}
        return {
            "event": event,
            "migration": self._migration.name,
            "phase_before": str(moment.before),
            "phase_after": str(moment.after),
            "owner": moment.owner,
            "active_schema": names[moment.owner],
            "epoch": moment.epoch,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "host": socket.gethostname(),
            "text": f"Migration {self._migration.name}: {event} ({moment.before} to {moment.after}); "
            f"the schema in use is {names[moment.owner]}.",
        }

    async def _work(self) -> None:
        while True:
            document = await self._due.get()
            for way in self._ways:
                error = await self._call(way, document, tries=TRIES if way == "url" else 1)
                if error is not None:
                    self._on_failure(error)
                    self._metrics.errors_total.labels(error.kind).inc()
            self._unfinished.pop(0)
            self._due.task_done()

    async def _call(self, way: str, document: Document, tries: int) -> HookError | None:
        """Call one hook and note how it went; gives what was wrong."""
        clock = asyncio.get_running_loop().time
        began, event, error = clock(), str(document["event"]), None
        try:
            await retry(
                lambda: self._try(way, document),
                on=HookError,
                when=lambda each: each.transient,
                tries=tries,
                pause=lambda tried: FIRST_PAUSE * 2 ** (tried - 1),
            )
        except HookError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001  # a hook must not end the daemon, whatever it does
            error = HookError(f"The hook {event} ({way}) could not be called: {type(failure).__name__}.")
        outcome = error.outcome if error else "ok"
        seconds = round(clock() - began, 3)
        self._metrics.hooks_total.labels(event, outcome).inc()
        tell = log.warning if error else log.info
        tell("hook", event_name=event, way=way, outcome=outcome, seconds=seconds, problem=str(error) if error else None)
        await self._journal({"event": event, "way": way, "outcome": outcome, "seconds": seconds})
        return error

    async def _try(self, way: str, document: Document) -> None:
        event = str(document["event"])
        secret = self._settings.hook_command if way == "command" else self._settings.hook_url
        where, body = secret.get_secret_value() if secret else "", json.dumps(document).encode()
        try:
            async with asyncio.timeout(SECONDS):
                await (run_command(where, event, body) if way == "command" else post(where, event, body))
        except TimeoutError:
            raise HookError(f"The hook {event} ({way}) did not end within {SECONDS:g} s.", outcome="timeout") from None

    async def _journal(self, details: Mapping[str, object]) -> None:
        try:
            async with connection(self._settings.target, "hook") as target:
                await journal(target, "hook", details)
        except ReplicatorError as error:
            log.warning("the hook is not in the journal", error=str(error))


# ---- a command


class _Running(asyncio.SubprocessProtocol):
    """What a running command has said last on its standard error."""

    def __init__(self) -> None:
        self.said = b""
        self.ended, self.closed = asyncio.Event(), asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002  # asyncio's signature
        self.said = (self.said + data)[-SAID_BYTES:]

    def process_exited(self) -> None:
        self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.closed.set()


async def run_command(command: str, event: str, body: bytes) -> None:
    """Run a shell command line with ``body`` on its standard input. What it has started ends with it.

    :raises HookError: it exited with another code than 0.
    """
    spawning = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_shell(
            _Running, command, env=_environment(event), stdout=asyncio.subprocess.DEVNULL, start_new_session=True
        )
    )
    try:
        transport, running = await asyncio.shield(spawning)
    except asyncio.CancelledError:  # what has been started by then must be ended, and asyncio would end the shell alone
        await _end(*await spawning)
        raise
    try:
        standard_input = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
        standard_input.write(body)
        standard_input.close()
        await running.ended.wait()
    finally:
        await _end(transport, running)
    code = transport.get_returncode()
    if code:
        how = f"exited with {code}" if code > 0 else f"was ended by the signal {-code}"
        raise HookError(_problem(event, "command", how, running.said))


async def _end(transport: asyncio.SubprocessTransport, running: _Running) -> None:
    """End a command with all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(transport.get_pid(), signal.SIGKILL)
    try:
        async with asyncio.timeout(CLOSING_SECONDS):
            await running.closed.wait()
    except TimeoutError:  # somebody who left the process group holds the pipe
        pass
    finally:
        transport.close()


def _environment(event: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(OURS)}
    return kept | {"REPLICATOR_HOOK_EVENT": event}


# ---- a URL


async def post(url: str, event: str, body: bytes) -> None:
    """POST ``body`` to a URL. Redirections are not followed.

    :raises HookError: it could not be reached (transient), or answered with another status than 2xx (transient where
        the server says that it is busy or broken).
    """
    try:
        status, said = await posting.post(url, body, read=SAID_BYTES)
    except posting.UnreachableError as error:
        raise HookError(f"The hook {event} (url) could not be called: {error}.", transient=error.transient) from None
    if not HTTP_OK <= status < HTTP_OK + 100:
        problem = _problem(event, "url", f"was answered with {status}", said)
        raise HookError(problem, transient=status in HTTP_BUSY or status >= HTTP_BROKEN)


def _problem(event: str, way: str, how: str, said: bytes) -> str:
    """One sentence, with the last lines of what the hook has said, limited."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    text = "".join(each if each.isprintable() else " " for each in " / ".join(lines[-SAID_LINES:]))[-SAID_CHARACTERS:]
    return f"The hook {event} ({way}) {how}{': ' if text else ''}{text.removesuffix('.')}."
