"""Facts about the ground: what checks say of tables and databases, and what follows when one goes wrong later.

A check of a table or a database is always a fact: it is looked at by ``replicator check``, at every start, every few
seconds while the daemon runs, and once more under the cutover's lock (``ground``). To add one:

1. Write a function of the subject in ``table_checks``, ``write_checks`` or ``database_checks``. Its docstring says why
   the fact matters. It returns ``failed`` (with a remedy that works), ``warned``, ``passed``, or None where it does not
   apply.
2. What it needs to know goes into the one query of ``postgres.inspect`` for all tables, or for the database. That query
   runs while writers wait: it must read each catalogue once, whatever the number of partitions. Between, it runs only
   when a catalogue has changed: which ones it reads is listed in ``postgres.generation``, and a test finds those that
   are not.
3. Name it in ``FACTS`` of ``write_checks`` or ``database_checks``, with the consequence: there is no way to run it
   without one.

A fact about how something has *changed* since the rows were last compared belongs into ``_replicator.definitions``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from replicator.preflight.finding import Report, Verdict

Subject = TypeVar("Subject")
Judge = Callable[[Subject], Verdict | None]


class Consequence(StrEnum):
    """What the running daemon does about a fact that has gone wrong. Before its start, every failure is a refusal."""

    TELL = "tell"
    """It goes on: nothing is lost by it. ``replicator check`` says so."""
    SHUT = "shut"
    """A gate, mostly ``ground``, is shut until the remedy is done; then it opens by itself."""
    STOP = "stop"
    """It ends with the remedy: what it would do from now on could not be undone. After the remedy it starts again."""


@dataclass(frozen=True)
class Fact(Generic[Subject]):
    """One fact: how it is judged, and what a failure means while the daemon runs."""

    judge: Judge[Subject]
    consequence: Consequence

    @property
    def name(self) -> str:
        """The check's name."""
        return self.judge.__name__


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A fact that is wrong while the daemon runs; ``name`` is as ``replicator check`` shows it."""

    name: str
    consequence: Consequence
    problem: str
    remedy: str
    gate: str = "ground"
    """The gate that it keeps shut."""


def state(report: Report, about: str, facts: Iterable[Fact[Subject]], subject: Subject) -> None:
    """Judge facts for a report; each finding is named after its fact."""
    report.judge(about, [each.judge for each in facts], subject)


def wrong(about: str, facts: Iterable[Fact[Subject]], subject: Subject) -> list[Wrong]:
    """Those of these facts that the running daemon does something about, and that are wrong."""
    found = []
    for each in facts:
        verdict = each.judge(subject) if each.consequence != Consequence.TELL else None
        if verdict is not None and verdict.outcome == "fail":
            found.append(
                Wrong(
                    name=f"{about}.{each.name}",
                    consequence=each.consequence,
                    problem=verdict.detail,
                    remedy=verdict.remedy,
                )
            )
    return found
