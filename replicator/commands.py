"""Answers the requests that the commands leave in the control tables."""

import asyncio
from typing import TYPE_CHECKING, Any

from replicator.cutover import CutoverResult
from replicator.errors import ExitCode, NotReadyError, ReplicatorError
from replicator.gates import Gate, look_at_gates
from replicator.log import get_logger
from replicator.phases import Phase
from replicator.pipeline import Pipeline
from replicator.postgres import control
from replicator.postgres.connect import Connection, connection
from replicator.postgres.control import Command
from replicator.tables import Key
from replicator.verify import Divergence, summary

if TYPE_CHECKING:
    from replicator.session import Session

log = get_logger("commands")

POLL_SECONDS = 0.2
GATES_SECONDS = 0.5

Answer = dict[str, Any]


class Commands:
    """Takes requests one after the other; ``cancel`` reaches the one that is at work."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self._current: tuple[int, asyncio.Task[None]] | None = None

    async def run(self) -> None:
        """Never returns."""
        async with connection(self.session.settings.target, "commands") as home:
            self._home = home
            await self._drop_leftovers()
            try:
                while True:
                    for command in await control.pending_commands(home):
                        await self._take(command)
                    await asyncio.sleep(POLL_SECONDS)
            finally:
                await self._stop_current()

    async def _drop_leftovers(self) -> None:
        """What a dead daemon had begun is not begun again: its asker has been told that it went away."""
        for command in await control.pending_commands(self._home):
            if command.started_at is not None:
                await self._answer(command, ExitCode.FAILED, {"error": "The daemon stopped while it worked on this."})

    async def _stop_current(self) -> None:
        if self._current is not None:
            task = self._current[1]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _take(self, command: Command) -> None:
        if command.command == "cancel":
            await self._cancel(command)
        elif self._current is None:
            await control.start_command(self._home, command.id)
            task = asyncio.create_task(self._work(command), name=f"command {command.command}")
            self._current = (command.id, task)
            task.add_done_callback(lambda _: setattr(self, "_current", None))

    async def _cancel(self, command: Command) -> None:
        wanted = command.arguments.get("id")
        if self._current is not None and self._current[0] == wanted and not self.session.committing:
            self._current[1].cancel()
        for other in await control.pending_commands(self._home):
            if other.id == wanted and (self._current is None or self._current[0] != wanted):
                await self._answer(other, ExitCode.NOT_READY, {"error": "It was cancelled before it began."})
        await self._answer(command, ExitCode.DONE, {})

    async def _work(self, command: Command) -> None:
        """Do it, and answer in any case: a request without an answer would be taken up again."""
        code = int(ExitCode.FAILED)
        try:
            async with connection(self.session.settings.target, f"command {command.command}") as own:
                answer = await self._do(command, own)
            code = int(answer.pop("exit_code", ExitCode.DONE))
        except asyncio.CancelledError:
            answer, code = {"error": "It was cancelled; nothing has changed."}, int(ExitCode.NOT_READY)
        except ReplicatorError as error:
            answer, code = await self._refusal(error), int(error.exit_code)
        except Exception as error:
            log.exception("command failed", command=command.command)
            answer = {"error": f"The daemon met an unexpected {type(error).__name__}.", "remedy": "See its log."}
        await self._answer(command, code, answer)

    async def _refusal(self, error: ReplicatorError) -> Answer:
        self.session.reporter.failed(error)
        self.session.metrics.errors_total.labels(error.kind).inc()
        answer: Answer = {"error": error.problem, "remedy": error.remedy, "kind": error.kind}
        if isinstance(error, NotReadyError):
            answer["gates"] = [_gate(each) for each in await self._gates(self._home)]
        return answer

    async def _do(self, command: Command, own: Connection) -> Answer:
        if command.command == "verify":
            return await self._verify(command, own, repair=bool(command.arguments.get("repair")))
        if command.command == "cutover":
            return await self._cutover(command, own)
        raise ReplicatorError(f"This daemon does not know the command {command.command}.", "Run the same version.")

    # ---- verify

    async def _verify(self, command: Command, own: Connection, *, repair: bool) -> Answer:
        pipeline = self.session.pipeline
        if pipeline is None or self.session.phase not in (Phase.FOLLOW, Phase.SOAK):
            raise NotReadyError(
                f"There is nothing to verify in the phase {self.session.phase}.", "Wait until the backfill is done."
            )
        await self.session.stop_verifying()
        try:
            await pipeline.verifier.open()
            follow = asyncio.create_task(self._follow_pass(command, own))
            try:
                result = await pipeline.verifier.full_pass()
                repaired = 0
                if repair and (result.divergences or pipeline.context.quarantined):
                    repaired = await self._repair(pipeline, result.divergences)
                    result = await pipeline.verifier.full_pass()
            finally:
                follow.cancel()
                await asyncio.gather(follow, return_exceptions=True)
        finally:
            self.session.start_verifying()
        tables = summary(result.divergences, list(result.rows))
        return {
            "tables": [{**table, "rows": result.rows[str(table["table"])]} for table in tables],
            "repaired": repaired,
            "clean": result.clean,
            "exit_code": ExitCode.DONE if result.clean else ExitCode.FAILED,
        }

    async def _follow_pass(self, command: Command, own: Connection) -> None:
        while True:
            verifier = self.session.pipeline.verifier if self.session.pipeline else None
            if verifier is not None and verifier.running:
                progress = {"done": verifier.done, "total": verifier.total, "what": "comparing rows"}
                await control.report_progress(own, command.id, progress)
            await asyncio.sleep(POLL_SECONDS)

    async def _repair(self, pipeline: Pipeline, divergences: list[Divergence]) -> int:
        """Derive anew what source rows give, those in quarantine too; delete what nothing gives."""
        dirty: dict[str, set[Key]] = {}
        extra: dict[str, list[Key]] = {}
        for each in divergences:
            if each.source is not None and each.source_key is not None:
                dirty.setdefault(each.source, set()).add(each.source_key)
            else:
                extra.setdefault(each.target, []).append(each.key)
        sources = {each.name: each.source for each in pipeline.context.plan.transforms}
        refused = {(name, key) for name, key in pipeline.context.quarantined if name in sources}
        for name, key in refused:
            dirty.setdefault(sources[name], set()).add(key)
        await pipeline.redo(dirty, extra)
        repaired = len(divergences) + len(refused - pipeline.context.quarantined)
        log.info("repaired", rows=repaired)
        return repaired

    # ---- cutover

    async def _cutover(self, command: Command, own: Connection) -> Answer:
        await self._wait_for_gates(command, own)

        async def report(step: str) -> None:
            await control.report_progress(own, command.id, {"step": step})

        result: CutoverResult = await self.session.cut_over(report)
        return {
            "epoch": result.epoch,
            "attempts": result.attempts,
            "write_pause_seconds": result.write_pause_seconds,
        }

    async def _wait_for_gates(self, command: Command, own: Connection) -> None:
        if self.session.phase == Phase.SOAK:
            raise NotReadyError("The new schema owns the data already.", "There is nothing left to cut over.")
        timeout = command.arguments.get("timeout")
        deadline = None if timeout is None else asyncio.get_running_loop().time() + float(timeout)
        while True:
            gates = await self._gates(own)
            shut = [gate for gate in gates if not gate.ok]
            if not shut and self.session.phase == Phase.FOLLOW:
                return
            late = deadline is not None and asyncio.get_running_loop().time() > deadline
            if not command.arguments.get("wait") or late:
                names = ", ".join(gate.name for gate in shut) or f"the phase is {self.session.phase}"
                raise NotReadyError(f"Not every gate is open: {names}.", "Wait (--wait), or do what the gates say.")
            await control.report_progress(
                own, command.id, {"step": "waiting for the gates", "gates": [_gate(each) for each in gates]}
            )
            await asyncio.sleep(GATES_SECONDS)

    async def _gates(self, own: Connection) -> list[Gate]:
        pipeline = self.session.pipeline
        if pipeline is None or pipeline.direction != "forward":
            return []
        return await look_at_gates(pipeline, self.session.phase, self.session.settings, own)

    async def _answer(self, command: Command, code: int, answer: Answer) -> None:
        await control.finish_command(self._home, command.id, int(code), answer)


def _gate(gate: Gate) -> dict[str, object]:
    return {"name": gate.name, "ok": gate.ok, "detail": gate.detail}
