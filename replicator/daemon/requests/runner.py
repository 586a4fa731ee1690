"""Answers the requests that the commands leave in the control tables."""

import asyncio
from collections.abc import Awaitable, Callable

from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.pipelines import Pipelines
from replicator.daemon.requests.answers import Answer, Gates, GateShutError, Handler
from replicator.daemon.requests.finishing import Finalization
from replicator.daemon.requests.moving import Moving
from replicator.daemon.requests.quarantining import Resolution
from replicator.daemon.requests.verifying import Verification
from replicator.daemon.switchovers import Switchovers
from replicator.errors import ExitCode, NotReadyError, ReplicatorError, UsageError, unexpected
from replicator.migration import Migration
from replicator.postgres.control import control, mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection, connection
from replicator.runtime.log import get_logger
from replicator.settings import Settings
from replicator.switchover.phases import Phase

log = get_logger("commands")

POLL_SECONDS = 0.2
TASK = "command "

BESIDE = {"discard"}
"""Requests that do not wait for their turn: a cutover may be waiting for just that."""


TO_THE_END = {"finalize"}
"""Requests that are not cancelled once they have begun."""


class Commands:
    """Takes requests one after the other, save for ``BESIDE``; ``cancel`` reaches the one that is at work."""

    def __init__(
        self,
        settings: Settings,
        migration: Migration,
        phase: CurrentPhase,
        pipelines: Pipelines,
        switchovers: Switchovers,
        gates: Gates,
        *,
        refused: Callable[[ReplicatorError], None],
        over: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._phase = phase
        self._switchovers = switchovers
        self._refused = refused
        self._over = over
        self._gates = gates
        self._current: tuple[int, asyncio.Task[None]] | None = None
        moving = Moving(
            settings=settings, migration=migration, phase=phase, gates=gates, switchovers=switchovers
        )  # fmt: skip
        resolution = Resolution(settings=settings, pipelines=pipelines)
        ending = Finalization(settings=settings, migration=migration, phase=phase, pipelines=pipelines)
        self._handlers: dict[str, Handler] = {
            "verify": Verification(phase=phase, pipelines=pipelines).verify,
            "cutover": moving.cutover,
            "rollback": moving.rollback,
            "finalize": ending.finalize,
            "retry": resolution.retry,
            "discard": resolution.discard,
        }

    async def run(self) -> None:
        """Never returns. Raises an error group if a request cannot even be answered."""
        async with connection(self._settings.target, "commands") as home:
            self._home = home
            await control.unreplicated(home)
            await self._drop_leftovers()
            async with asyncio.TaskGroup() as self._group:
                while True:
                    for command in await mailbox.pending_commands(home):
                        await self._take(command)
                    await asyncio.sleep(POLL_SECONDS)

    async def _drop_leftovers(self) -> None:
        """What a dead daemon had begun is not begun again: its asker has been told that it went away."""
        for command in await mailbox.pending_commands(self._home):
            if command.started_at is not None:
                await self._answer(command, ExitCode.FAILED, {"error": "The daemon stopped while it worked on this."})

    async def _take(self, command: Command) -> None:
        if command.command == "cancel":
            await self._cancel(command)
        elif command.command in BESIDE:
            if command.started_at is None:
                _ = await self._start(command)  # the group waits for it
        elif self._current is None:
            task = await self._start(command)
            self._current = (command.id, task)
            task.add_done_callback(lambda _: setattr(self, "_current", None))
        elif command.started_at is None and command.progress is None:
            at_work = self._current[1].get_name().removeprefix(TASK)
            await mailbox.report_progress(self._home, command.id, {"step": f"waiting until the {at_work} is done"})

    async def _start(self, command: Command) -> asyncio.Task[None]:
        await mailbox.start_command(self._home, command.id)
        return self._group.create_task(self._work(command), name=f"{TASK}{command.command}")

    async def _cancel(self, command: Command) -> None:
        wanted = command.arguments.get("id")
        if self._current is not None and self._current[0] == wanted and self._cancellable(self._current[1]):
            self._current[1].cancel()
        for other in await mailbox.pending_commands(self._home):
            if other.id == wanted and other.started_at is None:
                await self._answer(other, ExitCode.NOT_READY, {"error": "It was cancelled before it began."})
        await self._answer(command, ExitCode.DONE, {})

    def _cancellable(self, task: asyncio.Task[None]) -> bool:
        moves = self._switchovers
        return not (moves.committing or moves.taking_back or task.get_name().removeprefix(TASK) in TO_THE_END)

    async def _work(self, command: Command) -> None:
        """Do it, and answer in any case: a request without an answer would be taken up again."""
        code = int(ExitCode.FAILED)
        try:
            async with connection(self._settings.target, f"command {command.command}") as own:
                await control.unreplicated(own)
                answer = await self._do(command, own)
            given = answer.pop("exit_code", ExitCode.DONE)
            code = given if isinstance(given, int) else code
        except asyncio.CancelledError:
            answer, code = self._cut_short(command)
        except ReplicatorError as error:
            answer, code = await self._refusal(error), int(error.exit_code)
        except Exception as error:
            log.exception("command failed", command=command.command)
            answer = {"error": f"The daemon met an {unexpected(error)}.", "remedy": "See its log."}
        await self._answer(command, code, answer)
        if self._phase.now == Phase.FINALIZED:
            await self._over()

    def _cut_short(self, command: Command) -> tuple[Answer, int]:
        if self._switchovers.committing:
            problem = "The daemon was stopped while ownership moved; the next one goes on from there."
            return {
                "error": problem,
                "remedy": "Start it; `replicator status` says who owns the data.",
            }, ExitCode.FAILED
        if command.command in TO_THE_END:
            problem = f"The daemon was stopped while it worked on the {command.command}."
            return {"error": problem, "remedy": f"Run `replicator {command.command}` again."}, ExitCode.FAILED
        if command.command == "retry" or command.arguments.get("repair"):
            return {"error": "It was cancelled; rows that were mended by then stay so."}, ExitCode.NOT_READY
        return {"error": "It was cancelled; nothing has changed."}, ExitCode.NOT_READY

    async def _refusal(self, error: ReplicatorError) -> Answer:
        if not isinstance(error, NotReadyError | UsageError):  # else nothing is wrong, and whoever asked is told
            self._refused(error)
        answer: Answer = {"error": error.problem, "remedy": error.remedy, "kind": error.kind}
        if isinstance(error, GateShutError):
            answer["gates"] = await self._gates.described()
        return answer

    async def _do(self, command: Command, own: Connection) -> Answer:
        handler = self._handlers.get(command.command)
        if handler is None:
            raise ReplicatorError(f"This daemon does not know the command {command.command}.", "Run the same version.")
        return await handler(command, own)

    async def _answer(self, command: Command, code: int, answer: Answer) -> None:
        await mailbox.finish_command(self._home, command.id, int(code), answer)
