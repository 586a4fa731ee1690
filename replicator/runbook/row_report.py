"""What ``replicator try`` has found of one row: rows that ought to be, beside those that are."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from replicator.core.changes import Image
from replicator.core.tables import Key


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One column of a row that ought to be, beside the one that is. Values as Postgres prints them; None is NULL."""

    column: str
    wanted: str | None
    found: str | None = None
    differs: bool = False


@dataclass(kw_only=True)
class Beside:
    """A row that ought to be, beside the row of that key."""

    table: str
    key: Key
    state: Literal["same", "different", "missing", "refused"]
    """``missing``: there is no row of that key; ``refused``: ``error`` says why it cannot be written."""
    cells: list[Cell] = field(default_factory=list)
    error: str = ""


@dataclass(kw_only=True)
class Made:
    """What one transform makes of one source row. ``error``: why it makes nothing."""

    transform: str
    source: str
    key: Key
    rows: list[Beside] = field(default_factory=list)
    error: str = ""


@dataclass(kw_only=True)
class OneRow:
    """All that was found. Holds values of rows: it is for whoever has asked for them, and for nobody's log."""

    source: str
    key: Key
    old: dict[str, str | None] = field(default_factory=dict)
    """The row, as Postgres prints it; empty for a row of a query."""
    made: list[Made] = field(default_factory=list)
    back: list[Made] = field(default_factory=list)
    """The rows that come back, beside the old ones."""
    lost: bool = False
    """It gives new rows, and does not come back."""
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No transform fails, and the new tables take what it gives."""
        return not any(each.error or any(row.error for row in each.rows) for each in self.made)

    @property
    def comes_back(self) -> bool:
        """As it was, as far as that was tried."""
        rows = [row for each in self.back for row in each.rows if row.table == self.source]
        failed = any(each.error for each in self.back)
        return not self.lost and not failed and all(row.state == "same" for row in rows)


def texts(image: Image) -> dict[str, str | None]:
    """An image without what the log leaves out."""
    return {name: text if isinstance(text, str) else None for name, text in image.items()}


def cells(wanted: dict[str, str | None], found: dict[str, str | None] | None) -> list[Cell]:
    """Column by column; ``found``: None when there is no row."""
    there = found or {}
    return [
        Cell(
            column=name, wanted=text, found=there.get(name), differs=found is not None and there.get(name) != text
        )
        for name, text in wanted.items()
    ]  # fmt: skip


def state_of(compared: Iterable[Cell], *, there: bool) -> Literal["same", "different", "missing"]:
    """What is said of a row whose columns are so."""
    if not there:
        return "missing"
    return "different" if any(each.differs for each in compared) else "same"
