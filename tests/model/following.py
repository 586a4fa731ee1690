"""What one of the two pipelines of a move knows, and what it makes of the next entry in its source's log."""

from typing import Final, NamedTuple

from tests.model.kinds import Kind

GONE: Final = 0
"""The value of a row that is not there."""
CHANGED: Final = 1
"""All that the log tells of a row that is read again."""

MESSAGE: Final = -999
"""A marker that nobody waits for."""


class Pipe(NamedTuple):
    """The stream from one side to the other, as it is stored."""

    position: int
    waits_for: int = 0
    """The marker before which it writes nothing: it is in shadow. 0: it writes."""
    knows: bool = False
    """It remembers what the row gave. Where target keys are remembered, it can delete nothing without that."""

    def take(self, kind: Kind, side: int, entry: int, row: int, *, learns: bool) -> "Taken":
        """What becomes of the next entry.

        :param side: the source; the row is there with this value now.
        :param learns: in shadow too.
        """
        onward = self._replace(position=self.position + 1)
        if entry < 0:
            onward = onward._replace(waits_for=0 if -entry == self.waits_for else self.waits_for)
            return Taken(onward, None, f"a start marker of side {side} is passed over")
        read_again = kind.reads_again(gone=entry == GONE)
        value = row if read_again else entry
        if kind.remembers and (learns or not self.waits_for):
            onward = onward._replace(knows=value != GONE)
        what = f"a change of side {side} (the row is {value or 'gone'} now)" if read_again else _told(side, value)
        if self.waits_for:
            memory = {1: ", and the row is known", -1: ", and the row is forgotten"}
            return Taken(onward, None, f"{what} is passed over{memory.get(onward.knows - self.knows, '')}")
        if kind.remembers and value == GONE and not self.knows:
            return Taken(onward, None, f"{what} leads to nothing: what the row gave is not known")
        return Taken(onward, value, f"{what} is applied to side {1 - side}")


class Taken(NamedTuple):
    """A pipeline one entry further."""

    pipe: Pipe
    value: int | None
    """What it writes on its target, if anything; GONE deletes."""
    words: str


def _told(side: int, value: int) -> str:
    return f"{value or 'a deletion'} of side {side}"
