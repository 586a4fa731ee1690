"""Conditions for the rows between two keys, in the order that ``ORDER BY`` has them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from psycopg import sql

from replicator.core.tables import Column, Key
from replicator.postgres.catalog.operators import operator
from replicator.postgres.session.connect import beside_parameters, comma

Named = Callable[[str], sql.Composable]
"""How a column is written in the statement."""

HOLDS = sql.SQL("true")


@dataclass(frozen=True)
class Condition:
    """A condition, and the parameters that it takes."""

    text: sql.Composable
    parameters: tuple[str, ...] = ()

    def and_(self, other: "Condition") -> "Condition":
        """Both."""
        return self._joined("({} AND {})", other)

    def or_(self, other: "Condition") -> "Condition":
        """Either."""
        return self._joined("({} OR {})", other)

    def _joined(self, form: str, other: "Condition") -> "Condition":
        return Condition(sql.SQL(form).format(self.text, other.text), self.parameters + other.parameters)


def between(columns: Sequence[Column], lower: Key | None, upper: Key | None, named: Named) -> list[Condition]:
    """Conditions, of which each row with ``lower < key <= upper`` fulfils exactly one; None is no bound.

    Where one operator compares all columns, it is one condition. But a comparison of rows looks one operator up for
    all its columns. Where they need several, the rows that begin like the lower bound, and those beyond it, are asked
    for separately, so that an index finds each.
    """
    key = _Key(columns, named)
    if len({each.operators for each in columns}) == 1:
        found = Condition(HOLDS)
        if lower is not None:
            found = found.and_(key.rows("greater", lower))
        return [found if upper is None else found.and_(key.rows("less_or_equal", upper))]
    if lower is None:
        return [Condition(HOLDS)] if upper is None else key.before(upper)
    return key.after(lower, upper)


class _Key:
    """The columns of a key, and how they are written."""

    def __init__(self, columns: Sequence[Column], named: Named) -> None:
        self._columns = columns
        self._named = named

    def rows(self, name: str, bound: Key) -> Condition:
        """One comparison of all columns."""
        operators = self._columns[0].operators
        return Condition(
            sql.SQL("({}) {} ({})").format(
                comma([sql.SQL("{}").format(self._named(each.name)) for each in self._columns]),
                operator(operators, getattr(operators, name)),
                comma([_value(each) for each in self._columns]),
            ),
            bound,
        )

    def after(self, lower: Key, upper: Key | None) -> list[Condition]:
        """``lower < key <= upper``: the rows that share all columns but the last with the lower bound, and so on."""
        shared = _shared(lower, upper) if upper is not None else 0
        found = []
        for place in reversed(range(shared, len(self._columns))):
            here = self._begins(lower, place).and_(self._one(place, "greater", lower[place]))
            found.append(here if upper is None else here.and_(self._up_to(upper, shared)))
        return found

    def before(self, upper: Key) -> list[Condition]:
        """``key <= upper``, likewise."""
        last = len(self._columns) - 1
        return [
            self._begins(upper, place).and_(
                self._one(place, "less_or_equal" if place == last else "less", upper[place])
            )
            for place in range(len(self._columns))
        ]

    def _begins(self, bound: Key, places: int) -> Condition:
        found = Condition(HOLDS)
        for place in range(places):
            found = found.and_(self._one(place, "equal", bound[place]))
        return found

    def _up_to(self, bound: Key, place: int) -> Condition:
        here = self._one(place, "less_or_equal", bound[place])
        if place == len(self._columns) - 1:
            return here
        return here.and_(self._one(place, "less", bound[place]).or_(self._up_to(bound, place + 1)))

    def _one(self, place: int, name: str, bound: str) -> Condition:
        column = self._columns[place]
        compares = operator(column.operators, getattr(column.operators, name))
        return Condition(sql.SQL("{} {} {}").format(self._named(column.name), compares, _value(column)), (bound,))


def _shared(lower: Key, upper: Key) -> int:
    """How many columns two bounds have in common; all but the last at most."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(lower, upper, strict=True))
    return min(len(list(same)), len(lower) - 1)


def _value(column: Column) -> sql.Composed:
    """A parameter that the type's input function reads; not as text first, for which anybody might have made a cast."""
    return sql.SQL("%s::{}").format(beside_parameters(sql.SQL(column.bare_type)))
