"""SQL transforms: an author's SELECT over the source row, which it calls ``old``. The server runs it, not Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from replicator.errors import MigrationError


def is_file(text: str) -> bool:
    """Whether what an author has declared names a file of SQL, and is no SQL itself."""
    return text.endswith(".sql") and "\n" not in text and " " not in text


@dataclass(frozen=True, kw_only=True)
class ReadColumn:
    """A column of ``old``, as the server that runs the SELECT makes its value of a text."""

    name: str
    collation: str = ""
    """Quoted for SQL; empty for the default of the type, which needs no word."""
    delimiter: str = ""
    """Values go to the server as an array of the type, with this between them: the type's own input reads each then.

    Empty where they go as texts: of arrays there are no arrays, and of composites ``unnest`` makes columns.
    """


@dataclass(frozen=True, kw_only=True)
class Select:
    """What an SQL transform has in the place of a function. ``postgres.trying.binding`` fills in what it reads.

    Calling it is a mistake of this program: it would be Python that imitates SQL.
    """

    text: str
    """A SELECT; in a declaration it may name a file."""
    reads: tuple[ReadColumn, ...] = ()
    """The columns of the source row that it reads: the others are not sent."""
    gives: tuple[str, ...] = ()
    """The columns of the target that it returns, in its order."""

    def __call__(self, _row: Mapping[str, Any]) -> NoReturn:
        """Raise MigrationError."""
        raise _run_in_python("SELECT")


@dataclass(frozen=True, kw_only=True)
class SelectedKey:
    """What an SQL transform has as its ``key=``: a select list over the columns of the source key."""

    text: str
    reads: tuple[ReadColumn, ...] = ()

    def __call__(self, _row: Mapping[str, Any]) -> NoReturn:
        """Raise MigrationError."""
        raise _run_in_python("key=")


def _run_in_python(what: str) -> MigrationError:
    return MigrationError(f"The {what} of an SQL transform was called: only the server can run it.")
