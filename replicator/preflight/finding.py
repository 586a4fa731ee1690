"""What a check says, and the report that findings are collected in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TypeVar

from replicator.errors import ReplicatorError

Outcome = Literal["pass", "warn", "fail"]
Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Finding:
    """What one check found. SQL in the remedy stands on lines of its own that end with a semicolon."""

    check: str
    outcome: Outcome
    detail: str
    remedy: str = ""
    refuses: bool = True
    """Whether a failure keeps the daemon from starting; else it keeps a gate shut, and the rest goes on."""


@dataclass(frozen=True)
class Verdict:
    """A finding before it has its check's name."""

    outcome: Outcome
    detail: str
    remedy: str = ""


Check = Callable[[Subject], Verdict | None]
"""A check: its docstring says why it matters. None: it does not apply here."""


def passed(detail: str) -> Verdict:
    """All is as it must be."""
    return Verdict("pass", detail)


def warned(detail: str, *remedy: str) -> Verdict:
    """It will work; but somebody should know."""
    return Verdict("warn", detail, "\n".join(remedy))


def failed(detail: str, *remedy: str) -> Verdict:
    """The daemon must not start like this."""
    return Verdict("fail", detail, "\n".join(remedy))


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names)


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 table``, ``2 tables``."""
    plural = noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


class Report:
    """The findings of one run, in order."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def say(self, check: str, verdict: Verdict, *, refuses: bool = True) -> None:
        """Add a finding."""
        self.findings.append(Finding(check, verdict.outcome, verdict.detail, verdict.remedy, refuses))

    def judge(self, about: str, checks: Iterable[Check[Subject]], subject: Subject) -> None:
        """Run checks; each finding is named after its function."""
        for check in checks:
            verdict = check(subject)
            if verdict is not None:
                self.say(f"{about}.{check.__name__}", verdict)

    def failed(self, *checks: str) -> bool:
        """Whether any of these has failed."""
        return any(each.check in checks and each.outcome == "fail" for each in self.findings)

    def stage(self, check: str, remedy: str = "See the server's log.") -> "Stage":
        """What goes wrong in the block becomes a finding of this check, and the run goes on after the block.

        :param remedy: for errors that bring none.
        """
        return Stage(self, check, remedy)


class Stage:
    """See ``Report.stage``."""

    def __init__(self, report: Report, check: str, remedy: str) -> None:
        self._report = report
        self._check = check
        self._remedy = remedy

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if isinstance(error, ReplicatorError):
            self._report.say(self._check, failed(error.problem, error.remedy or self._remedy))
            return True
        return False
