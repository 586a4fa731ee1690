"""Casts of a copy: how a column's value becomes another type's, and how it comes back."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from replicator.errors import MigrationError

ValueFunction = Callable[[Any], Any]
"""From a value that is not NULL."""

USING: Final = re.compile(r"(.*?)\s*\bUSING\b\s*(.*)", re.IGNORECASE | re.DOTALL)
NAME: Final = r'(?P<name>\w+|"(?:[^"]|"")+")'
IN_ZONE: Final = re.compile(rf"{NAME}\s+AT\s+TIME\s+ZONE\s+(?P<zone>'(?:[^']|'')+')", re.IGNORECASE)
WORDS: Final = r"double\s+precision|(?:character|bit)\s+varying|time(?:stamp)?\s+with(?:out)?\s+time\s+zone"
AS_TYPE: Final = re.compile(
    rf"{NAME}\s*::\s*(?:{WORDS}|[\w.]+)\s*(?:\(\s*\d+\s*(?:,\s*\d+\s*)?\))?(?:\[\])*", re.IGNORECASE
)

QUOTED: Final = re.compile(
    r"""--[^\n]*|/\*.*?\*/|[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(\$\w*\$).*?\1""", re.DOTALL
)
BEYOND: Final = re.compile(r"\b(?:SELECT|TABLE)\b|\bOVER\s*[(\w]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """What a column becomes, or becomes again.

    The value passes as it is, and the column's type reads it; unless the server makes it by ``using``, an SQL
    expression over the columns of the row, or ``function`` from the value. NULL stays NULL for a function.
    """

    type: str
    """Empty on the way back, where the old column has one."""
    using: str | None = None
    function: ValueFunction | None = None


def read_cast(source: str, column: str, given: object) -> Cast:
    """``"bigint"``, ``"timestamptz USING at AT TIME ZONE 'UTC'"``, or a pair of type and function."""
    match given:
        case (str() as type_, function) if type_.strip() and callable(function) and not USING.fullmatch(type_):
            return Cast(type=type_.strip(), function=function)
        case str() if given.strip():
            return _parsed(source, column, given.strip())
        case _:
            raise wrong(
                source,
                f"the cast of {column} is no type",
                f'Write {{"{column}": "TYPE"}}, {{"{column}": "TYPE USING EXPRESSION"}}, or '
                f'{{"{column}": ("TYPE", FUNCTION)}} with a function of the value.',
            )


def _parsed(source: str, column: str, text: str) -> Cast:
    found = USING.fullmatch(text)
    if found is None:
        return Cast(type=text)
    if not found[1] or not found[2]:
        raise wrong(source, f"the cast of {column} lacks a type, or an expression", "Write TYPE USING EXPRESSION.")
    # A change to another row, of this table or not, would not be followed: as ALTER TABLE has it, there is no other.
    if BEYOND.search(QUOTED.sub(" ", found[2])):
        raise wrong(
            source,
            f"the expression for {column} reads more than the row itself",
            "Write a transform with a Query, whose depends_on= says how other rows lead to this one.",
        )
    return Cast(type=found[1], using=found[2])


def ways_back(
    source: str, casts: Mapping[str, Cast], rename: Mapping[str, str], back: Mapping[str, object]
) -> dict[str, Cast]:
    """For each column that is cast, how it comes back: as the author says, or as follows. Raises MigrationError."""
    return {
        column: _back(source, column, back[column])
        if column in back
        else _inverse(source, column, each, rename.get(column, column))
        for column, each in casts.items()
    }


def _back(source: str, column: str, given: object) -> Cast:
    """As a cast; its type is what the old column has, so a function alone will do."""
    return Cast(type="", function=given) if callable(given) else read_cast(source, column, given)


def _inverse(source: str, column: str, cast: Cast, new_name: str) -> Cast:
    """The way back that follows from the way forward. Raises MigrationError when none does."""
    if cast.using is None and cast.function is None:
        return Cast(type="")
    zoned, typed = IN_ZONE.fullmatch(cast.using or ""), AS_TYPE.fullmatch(cast.using or "")
    if zoned is not None and _names(zoned["name"], column):
        return Cast(type="", using=f"{quoted(new_name)} AT TIME ZONE {zoned['zone']}")
    if typed is not None and _names(typed["name"], column):
        return Cast(type="")
    by = f"by USING {cast.using}" if cast.using is not None else "by a function"
    how = f'"TYPE USING EXPRESSION of {new_name}"' if cast.using is not None else "FUNCTION of the value"
    raise wrong(
        source,
        f"{column} is cast {by}, and nothing says how it comes back",
        f'Add back={{"{column}": {how}}}, or way_back=False: then write the reverse transform yourself, or do without.',
    )


def _names(written: str, column: str) -> bool:
    """Whether an identifier, as SQL has it, is this column."""
    return (written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()) == column


def quoted(name: str) -> str:
    """An identifier, for SQL that is no command of ours but a text of the migration."""
    return '"' + name.replace('"', '""') + '"'


def wrong(source: str, problem: str, remedy: str) -> MigrationError:
    """What is wrong with a declaration."""
    return MigrationError(f"The copy of {source}: {problem}.", remedy)
