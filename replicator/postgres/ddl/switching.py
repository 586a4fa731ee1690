"""The team's own statements in the transaction of a cutover, or of a rollback: ``sql/cutover``, ``sql/rollback``.

Views that are to show the new tables, foreign keys that are to lead there, publications: what must change at the very
moment in which ownership moves.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from replicator.core.tables import Name
from replicator.errors import MigrationError, NotReadyError, ReplicatorError, RetryableError
from replicator.migration import Migration
from replicator.postgres.control.control import installed, read_phase
from replicator.postgres.ddl.authored import names_unknown, refused
from replicator.postgres.ddl.ddl import statements
from replicator.postgres.ddl.rewriting import named_anywhere
from replicator.postgres.ddl.statements import ends_transaction, shortened
from replicator.postgres.locking.locks import BETWEEN_TRIES, lockable
from replicator.postgres.session.connect import Connection, translated
from replicator.runtime.retrying import retry

Kind = Literal["cutover", "rollback"]
KINDS: Final[tuple[Kind, ...]] = ("cutover", "rollback")

BEFORE: Final = (None, "backfill", "build", "follow")
"""The phases in which the old schema owns the data."""
OF_VIEW: Final = re.compile(
    r"\s*(?:(?:CREATE|DROP|ALTER)\s+(?:OR\s+REPLACE\s+)?(?:MATERIALIZED\s+)?VIEW|COMMENT|GRANT|REVOKE)\b", re.IGNORECASE
)
SWITCH_SECONDS: Final = 0.5
"""For all statements of a move to get their locks."""
QUEUE_TIMEOUT: Final = "50ms"
LOCK_TIMEOUT: Final = "200ms"
"""For a trial: whoever waits for a lock holds up everybody behind it."""


@dataclass(frozen=True)
class Statement:
    """One statement, and the file that it stands in: ``sql/cutover/10_views.sql``."""

    file: str
    text: str

    def __str__(self) -> str:
        return f"The statement {shortened(self.text)!r} in {self.file}"


@dataclass(frozen=True)
class Trial:
    """What came of a trial: how many statements there are of each kind, and the first one that fails.

    ``perhaps``: it may well work at the cutover, for it names what is not there, as before tables are renamed, or waits
    for a lock that somebody holds.
    """

    statements: dict[Kind, int]
    problem: str = ""
    remedy: str = ""
    perhaps: bool = False


def switch_statements(migration: Migration, kind: Kind) -> list[Statement]:
    """In the order of the files' names; none without the folder.

    Raises MigrationError for one that would end the transaction: ownership would move by halves.
    """
    found = []
    for file in sorted((migration.folder() / kind).glob("*.sql")):
        for text in statements(file):
            each = Statement(f"sql/{kind}/{file.name}", text)
            if ends_transaction(text):
                raise MigrationError(
                    f"{each} would begin or end a transaction.",
                    f"Take it out: all of sql/{kind} runs in the transaction of the {kind}.",
                )
            found.append(each)
    return found


async def switch_tables(connection: Connection, migration: Migration, kind: Kind) -> list[Name]:
    """The tables that statements of this kind name and may lock, as far as this role may lock them.

    A view needs no lock that writers or readers would have to wait for.
    """
    planned = [each.text for each in switch_statements(migration, kind) if not OF_VIEW.match(each.text)]
    if not planned:
        return []
    names = await lockable(connection)
    return sorted({name for text in planned for name in named_anywhere(text, names)}, key=str)


async def switch(connection: Connection, migration: Migration, kind: Kind, *, together: bool) -> None:
    """Run the statements, in the caller's transaction, in which names are as they will be after it.

    :param together: both schemas are in this database.
    :raises NotReadyError: naming the statement that Postgres refuses; or the databases are two.
    :raises RetryableError: a lock does not come in time.
    """
    planned = switch_statements(migration, kind)
    if planned and not together:
        raise NotReadyError(
            f"sql/{kind} cannot run in the transaction of the {kind}: the schemas are in two databases. The writers "
            "went on.",
            f"Take sql/{kind} out, and run what is in it yourself.",
        )
    clock = asyncio.get_running_loop().time
    deadline = clock() + SWITCH_SECONDS
    for each in planned:
        try:
            await _run(connection, each, lambda: clock() < deadline)
        except RetryableError:
            raise
        except ReplicatorError as error:
            problem, remedy = refused(error, "Correct it, and try it with --dry-run.")
            raise NotReadyError(f"{each} fails: {problem} The writers went on.", remedy) from error


async def _run(connection: Connection, each: Statement, in_time: Callable[[], bool]) -> None:
    """Queue for a lock of its own only for moments, as long as there is time.

    Who writes to that table may be waiting for us already: it would be told of a deadlock.
    """

    async def run() -> None:
        with translated():
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{QUEUE_TIMEOUT}'")
                await connection.execute(each.text.encode())

    await retry(run, on=RetryableError, when=lambda _: in_time(), pause=BETWEEN_TRIES)


async def try_switching(
    connection: Connection, migration: Migration, between: Callable[[], Awaitable[None]] | None = None
) -> Trial:
    """Run those of the cutover, then those of the rollback, and undo it all; the new tables are there.

    Names are as they are without a renaming. Waits for no lock for long, and holds none for long.

    :param between: called where things are as after the cutover, unless a statement of it fails.
    """
    if await installed(connection) and await read_phase(connection) not in BEFORE:
        return Trial(dict.fromkeys(KINDS, 0))  # they have been run, or are about to be
    found = {kind: switch_statements(migration, kind) for kind in KINDS}
    counts = {kind: len(planned) for kind, planned in found.items()}
    with translated():
        async with connection.transaction(force_rollback=True):
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            trial = await _try(connection, found["cutover"], counts)
            if trial is None and between is not None:
                await between()
            return trial or await _try(connection, found["rollback"], counts) or Trial(counts)


async def _try(connection: Connection, planned: Iterable[Statement], counts: dict[Kind, int]) -> Trial | None:
    """What came of it; None when all of them run."""
    for each in planned:
        try:
            with translated():
                await connection.execute(each.text.encode())
        except ReplicatorError as error:
            problem, remedy = refused(error, "Correct it.")
            return Trial(
                counts, f"{each} fails: {problem}", remedy, isinstance(error, RetryableError) or names_unknown(error)
            )
    return None
