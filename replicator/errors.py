"""Every error that replicator raises on purpose: one sentence on what is wrong, one on what to do about it."""

import traceback
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the commands exit with."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    NOT_READY = 3


class ReplicatorError(Exception):
    """The base of all of ours. ``kind`` labels ``replicator_errors_total``; ``transient``: waiting may help."""

    kind = "failed"
    exit_code = ExitCode.FAILED
    transient = False

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem = problem
        self.remedy = remedy


def unexpected(error: BaseException) -> str:
    """Type and place of an exception that is not ours. Its message is left out: it may quote a value of a row."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{place}"


class UsageError(ReplicatorError):
    """A setting or an argument is wrong."""

    kind = "usage"
    exit_code = ExitCode.WRONG_USE


class MigrationError(ReplicatorError):
    """The migration's definition is wrong: a transform, a query, or the DDL in ``sql/``."""

    kind = "migration"
    exit_code = ExitCode.WRONG_USE


class NotReadyError(ReplicatorError):
    """Nothing is wrong, but the time has not come."""

    kind = "not_ready"
    exit_code = ExitCode.NOT_READY


class CheckError(ReplicatorError):
    """A preflight check failed: a server, a setting, a privilege or a table is not as it must be."""

    kind = "check"


class ConnectionLostError(ReplicatorError):
    """A server did not answer, or went away. ``where``: host, port and database, if it was never reached."""

    kind = "connection"
    transient = True
    where = ""


class DatabaseError(ReplicatorError):
    """A statement of ours failed. ``sqlstate`` is Postgres' code (Appendix A); no row value is in the text."""

    kind = "database"

    def __init__(self, problem: str, remedy: str = "", sqlstate: str | None = None) -> None:
        super().__init__(problem, remedy)
        self.sqlstate = sqlstate


class RowError(DatabaseError):
    """Postgres refused rows: a data exception or a violated constraint (SQLSTATE classes 22 and 23)."""

    kind = "row"
    judged = False
    """A function of the application's has raised it on purpose: it has judged the row, whatever the SQLSTATE says."""


class RetryableError(DatabaseError):
    """A deadlock, a serialization failure or a lock time-out: the same thing may work when tried again."""

    kind = "contention"
    transient = True


class LockRoomError(DatabaseError):
    """The server's lock table is full: there is room again when others have ended their transactions."""

    kind = "locks"
    transient = True


class SlotError(ReplicatorError):
    """The replication slot does not continue what is stored: lost, re-created, or ahead."""

    kind = "slot"


class ProtocolError(ReplicatorError):
    """The stream carried something that cannot be understood."""

    kind = "protocol"


class DefinitionError(ReplicatorError):
    """A table is no longer what it was when the daemon started."""

    kind = "definition"


class BeginAgainError(DefinitionError):
    """The daemon reads the tables anew when it begins again: it does so by itself, and goes on where it stopped."""

    transient = True


class LeaseError(ReplicatorError):
    """Another daemon owns this migration."""

    kind = "lease"


class HookError(ReplicatorError):
    """A hook failed. ``outcome`` labels ``replicator_hooks_total``; ``transient``: a second call may succeed."""

    kind = "hook"

    def __init__(self, problem: str, remedy: str = "", *, outcome: str = "failed", transient: bool = False) -> None:
        super().__init__(problem, remedy)
        self.outcome = outcome
        self.transient = transient


class TransformError(ReplicatorError):
    """A transform raised, or returned what cannot be written, for one source row."""

    kind = "transform"


class ShapeError(TransformError):
    """What a transform returned for one source row is no row of its target: no dict, another column, no key."""


class CutoverError(ReplicatorError):
    """A cutover attempt was rolled back; the writers went on."""

    kind = "cutover"
    exit_code = ExitCode.NOT_READY


def cause(error: BaseException) -> BaseException:
    """The cause among the errors of a task group: one that is ours, if there is any."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [cause(each) for each in error.exceptions]
    ours = [each for each in leaves if isinstance(each, ReplicatorError)]
    lasting = [each for each in ours if not each.transient]
    return (lasting or ours or leaves)[0]
