"""What SQL takes for equal in a column, as one text: so that keys are one key in Python where they are one in SQL."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cached_property
from typing import Final, Literal

from replicator.values import Kind, canonical, canonical_numeric

Family = Literal["boolean", "integer", "numeric", "float", "bytea", "uuid", "text", "blanks", "numbers", "printed"]
"""How the text of a value is brought to its form.

text: it is the form. blanks: but for those at its end. numbers: but for the zeros at the end of the numbers in it.
printed: it is the form as Postgres prints it.
"""

Asked = Literal["", "printed", "folded", "justified"]
"""What the server must be asked for the form of a text that somebody has written: how it prints the value (printed),
in lower case (folded, for citext), or with days and months carried over (justified, for interval)."""

FAMILIES: Final[dict[Kind, Family]] = {
    "boolean": "boolean",
    "integer": "integer",
    "float": "float",
    "numeric": "numeric",
    "bytea": "bytea",
    "uuid": "uuid",
    "json": "printed",
    "array": "printed",
    "text": "text",
}
NUMBER = re.compile(r'("(?:[^"\\]|\\.)*")|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)')
EXACTLY = Context(prec=200_000)
"""More digits than a numeric has."""

RANGES: Final = {
    "smallint": (-(1 << 15), (1 << 15) - 1),
    "integer": (-(1 << 31), (1 << 31) - 1),
    "bigint": (-(1 << 63), (1 << 63) - 1),
}
"""By base, the lowest and the highest value. No row can have a key beyond them."""
TEXTS: Final = ("text", "blanks")


@dataclass(frozen=True, kw_only=True)
class Form:
    """The one text of all values of a column that its own ``=`` takes for equal. It is a literal of the type."""

    family: Family
    base: str = ""
    """The type, with no domain around it and no modifier."""
    length: int | None = None
    """Of ``varchar(n)`` and ``char(n)``: the blanks beyond it are cut without a word."""
    scale: int | None = None
    """Of ``numeric(p, s)``: it is rounded to that without a word."""
    digits: int | None = None
    """Of ``numeric(p, s)``: so many digits it has at most before the point."""
    asked: Asked = ""
    cast: str = ""
    """What the server is asked with: the type with its modifier, no domain around it."""
    problem: str = ""
    """Why there is no form, if there is none: the column can be no key."""

    @property
    def prints_apart(self) -> bool:
        """The server prints equal values in several ways, which it alone can bring together."""
        return self.asked in {"folded", "justified"}

    @property
    def spelt_apart(self) -> bool:
        """Two values that are equal may still differ in what the column shows."""
        return (
            self.prints_apart
            or self.family in {"numbers", "float"}
            or (self.family == "numeric" and self.scale is None)
        )  # fmt: skip

    def of(self, text: str) -> str:
        """The form of a text; where the server has been asked, of its answer. Raises ValueError."""
        try:
            return self._make(text)
        except ArithmeticError as error:  # decimal's own are no ValueError
            raise ValueError(f"no {self.base}") from error

    def holds(self, form: str) -> bool:
        """Whether a number, in its form, is in the range of the type; of other types, that is not known here."""
        if self.base in RANGES:
            lowest, highest = RANGES[self.base]
            return lowest <= int(form) <= highest
        if self.digits is not None:
            number = Decimal(form)
            return number.is_nan() or (number.is_finite() and number.adjusted() < self.digits)
        return True

    @cached_property
    def _make(self) -> Callable[[str], str]:
        """Chosen once: each key of each row goes through it."""
        match self.family:
            case "printed":
                return str
            case "text":
                return str if self.length is None else self._cut
            case "blanks":
                return lambda text: self._cut(text).rstrip(" ").ljust(self.length or 0)
            case "numbers":
                return lambda text: NUMBER.sub(lambda found: found[1] or canonical_numeric(found[2]), text)
            case "numeric":
                return lambda text: canonical_numeric(self._rounded(text))
            case kind:
                return lambda text: canonical(text, kind) or ""

    def _cut(self, text: str) -> str:
        beyond = "" if self.length is None else text[self.length :]
        return text[: self.length] if beyond and not beyond.strip(" ") else text

    def _rounded(self, text: str) -> str:
        number = Decimal(text)
        if self.scale is None or not number.is_finite():
            return text
        return str(number.quantize(Decimal(1).scaleb(-self.scale), ROUND_HALF_UP, EXACTLY))


def formed(form: Form, text: str) -> str | None:
    """The form of a text; None when it is no value of the type."""
    try:
        return form.of(text)
    except ValueError:
        return None


def form_of_kind(kind: Kind) -> Form:
    """The form of a column of which nothing but the kind is known."""
    return Form(family=FAMILIES[kind], base=kind)


NUMBERS = ("integer", "numeric")


def mismatch(form: Form, key: Form) -> str:
    """Why values of a column do not lead to a key of another type, if they do not."""
    if form.problem or key.problem:
        return form.problem or key.problem
    same = form.base == key.base
    if same or {form.family, key.family} <= set(NUMBERS) or (form.family in {"text", "blanks"} and not form.asked):
        return ""
    return f"{form.base} is not {key.base}"


def needs_asking(form: Form, key: Form) -> bool:
    """Whether only the server knows the form that a printed value of one column has among those of another.

    Of what a text is read as, too: from version 16 on, ``0x1F`` is a number.
    """
    if key.prints_apart or (key.asked != "" and form.base != key.base):
        return True
    return form.family in TEXTS and key.family not in TEXTS and key.cast != ""


def written_as(text: str, form: Form, key: Form) -> str | None:
    """What a printed value of one column is among those of another (see ``mismatch``); None: none of them.

    It is a literal of the other type, not its form yet.
    """
    text = form.of(text)
    if form.family == "blanks" and key.family != "blanks":
        return text.rstrip(" ")  # as its cast to text does
    if form.family in NUMBERS and key.family == "integer" and not text.removeprefix("-").isdecimal():
        return None
    return text
