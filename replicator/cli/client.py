"""Asking the daemon for something, through the control tables: it may run on another machine."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from replicator.cli.signals import passed, stop_on_signal
from replicator.errors import ConnectionLostError, ExitCode, NotReadyError, ReplicatorError
from replicator.postgres.control import control, mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection, connection

POLL_SECONDS = 0.2
ANSWER_SECONDS = 15.0
"""How long an answer is waited for that ought to come at once."""

REFUSALS = (ExitCode.FAILED, ExitCode.WRONG_USE, ExitCode.NOT_READY)

Show = Callable[[Command], None]
Note = Callable[[str], None]


async def ask(
    dsn: str, command: str, arguments: Mapping[str, Any], show: Show, note: Note, within: float | None = None
) -> Command:
    """Send a request and follow it to its end.

    A first Ctrl-C (or SIGTERM) cancels the request, and waits for what became of it: it may have been too late. For so
    long only as ``ANSWER_SECONDS``, and after ``within`` seconds likewise: the server or the daemon may not answer.

    :param show: is called with the request's state again and again.
    :param note: is called with what the user should know besides.
    :param within: for how long the daemon may be at it; it keeps that itself, if it can.
    :raises NotReadyError: when there is no daemon to ask.
    :raises ReplicatorError: when it goes away before it has answered, or does not answer.
    """
    with stop_on_signal() as stop:
        work = asyncio.create_task(_ask(dsn, command, arguments, show, note, stop))
        try:
            if await _ended(work, stop, within):
                return await work
            if not stop.is_set():
                stop.set()  # its own time is up too: withdrawn, so that it does not begin what nobody waits for
            if await _ended(work, None, ANSWER_SECONDS):
                return await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    raise ReplicatorError(
        f"Neither the daemon nor the server has answered for {ANSWER_SECONDS:.0f} s. "
        f"The {command} is withdrawn, unless it is done already.",
        "`replicator status`, and the daemon's /healthz, say what they wait for and where things stand.",
    )


async def _ended(work: "asyncio.Task[Command]", stop: asyncio.Event | None, seconds: float | None) -> bool:
    """Wait for the end of the work, for the signal, or for the time, whichever comes first."""
    stopping = None if stop is None else asyncio.create_task(stop.wait())
    waited = [work] if stopping is None else [work, stopping]
    await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if stopping is not None:
        stopping.cancel()
    return work.done()


async def _ask(
    dsn: str, command: str, arguments: Mapping[str, Any], show: Show, note: Note, stop: asyncio.Event
) -> Command:
    async with connection(dsn, command) as opened:
        await control.unreplicated(opened)
        await _require_daemon(opened)
        number = await mailbox.request(opened, command, arguments)
        try:
            return await _follow(opened, number, show, note, stop)
        except ConnectionLostError as error:
            raise ConnectionLostError(
                f"The connection was lost while the daemon worked on the {command}; the daemon may go on with it.",
                "`replicator status` says what became of it.",
            ) from error


class RefusedError(ReplicatorError):
    """The daemon answered that it did not do it."""

    def __init__(self, command: Command) -> None:
        answer = command.result or {}
        super().__init__(answer.get("error") or f"The {command.command} failed.", answer.get("remedy") or "")
        self.exit_code = ExitCode(command.exit_code) if command.exit_code in REFUSALS else ExitCode.FAILED
        self.kind = answer.get("kind") or ("not_ready" if self.exit_code == ExitCode.NOT_READY else "failed")
        self.details = {name: value for name, value in answer.items() if name not in ("error", "remedy", "kind")}


async def _require_daemon(opened: Connection) -> None:
    if not await control.daemon_alive(opened):
        if await control.installed(opened) and await control.read_phase(opened) == control.FINALIZED:
            raise NotReadyError(
                "The migration is over, and no daemon runs any more.",
                "Only `replicator cleanup` is left to do; there is no way back from here.",
            )
        raise NotReadyError("No daemon runs.", "Start it with `replicator run`.")
    if not await control.installed(opened):
        raise NotReadyError("The daemon is still starting.", "Try again in a moment.")


async def _follow(opened: Connection, number: int, show: Show, note: Note, stop: asyncio.Event) -> Command:
    cancelled = False
    while True:
        alive = await control.daemon_alive(opened)  # asked first: a daemon may answer and then stop
        command = await mailbox.read_command(opened, number)
        show(command)
        if command.finished_at is not None:
            return command
        if not alive:
            await _cancel(opened, number)
            raise _gone(command)
        if stop.is_set() and not cancelled:
            cancelled = True
            await _cancel(opened, number)
            note(f"Cancelling the {command.command}; Ctrl-C again does not wait for the answer.")
        await (asyncio.sleep(POLL_SECONDS) if cancelled else passed(stop, POLL_SECONDS))


async def _cancel(opened: Connection, number: int) -> None:
    """Also when no daemon runs, so that the next one does not begin what nobody waits for any more."""
    await mailbox.request(opened, "cancel", {"id": number})


def _gone(command: Command) -> ReplicatorError:
    begun = "while it worked on" if command.started_at else "before it took up"
    return ReplicatorError(
        f"The daemon went away {begun} the {command.command}; the request is withdrawn.",
        "Its log says why. Start it with `replicator run`; `replicator status` then says where things stand.",
    )
