"""What came of the demo: its figures, and whether they are as they must be."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from replicator.demo.application import Connection, Ids, found
from replicator.demo.connecting import connect
from replicator.demo.ledger import Ledger
from replicator.demo.naive import compare_all, naive_connection
from replicator.demo.new_application import NewApplication
from replicator.demo.old_application import OldApplication
from replicator.demo.tally import Tally
from replicator.migration import Migration

EXAMPLES = 10


@dataclass(kw_only=True)
class Figures:
    """All that ``--json`` prints. Times are in seconds."""

    postgres: int
    requests: int
    rate: int
    seconds: float = 0.0
    backfill_rows: int = 0
    backfill_seconds: float = 0.0
    transactions: Mapping[str, int] = field(default_factory=dict)
    """Acknowledged ones, by the schema that they were written to."""
    rolled_back: int = 0
    refused: int = 0
    """Met the guard at the cutover, and were acknowledged by the new schema then."""
    retried: int = 0
    """Gave way to a lock, and were acknowledged then."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Failed, by the error's name: there must be none."""
    write_pause_seconds: float = 0.0
    """As the daemon measured it."""
    cutover_attempts: int = 0
    slowest_write_seconds: float = 0.0
    """Around the cutover, as the writers measured it: from the first try to the acknowledgement."""
    verified_rows: int = 0
    """By ``replicator verify``, after the cutover."""
    compared_rows: int = 0
    """By the demo itself, in the end."""
    keys_written: int = 0
    divergence: int = 0
    lost_writes: int = 0
    examples: list[str] = field(default_factory=list)

    def take(self, tally: Tally) -> None:
        """Take in what the writers have done."""
        self.transactions, self.errors = dict(tally.transactions), dict(tally.errors)
        self.rolled_back, self.refused, self.retried = tally.rolled_back, tally.refused, tally.retried
        if tally.first_error:
            self.examples.append(tally.first_error)

    @property
    def good(self) -> bool:
        """Nothing differs, is lost, or has failed."""
        return not (self.divergence or self.lost_writes or self.errors)

    @property
    def last_line(self) -> str:
        """The demo in one line."""
        pause = round(self.write_pause_seconds * 1000)
        return (
            f"demo: cutover complete, write pause {pause} ms, divergence {self.divergence}, "
            f"lost writes {self.lost_writes}"
        )

    def as_json(self) -> dict[str, Any]:
        """The figures, and whether they are good."""
        return {"ok": self.good, **asdict(self)}


def seeded(connection: Connection) -> Ledger:
    """A ledger of what is in the old schema now, before anybody writes."""
    old = OldApplication(connection)
    return Ledger.of(found(connection, old), old.schema)


def judge(dsn: str, migration: Migration, ledger: Ledger, figures: Figures) -> None:
    """Compare old and new both ways, and look every acknowledged write up on both sides. Nobody must be writing."""
    with naive_connection(dsn) as connection:
        differences, figures.compared_rows = compare_all(
            connection, migration, ledger.written_to(NewApplication.schema)
        )
    with connect(dsn) as connection:
        sides = OldApplication(connection), NewApplication(connection, Ids(migration))
        lost = [each for side in sides for each in ledger.lost(side, found(connection, side))]
    figures.keys_written = len(ledger)
    figures.divergence, figures.lost_writes = len(differences), len(lost)
    figures.examples += [str(each) for each in (*lost[:EXAMPLES], *differences[:EXAMPLES])]
