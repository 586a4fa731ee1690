r"""Takes SQL text apart into statements, as Postgres' own lexer sees them: by quotes, comments, brackets and bodies.

Postgres' parser as a library, ``pglast``, would do this too. The tests hold this module against it
(``test_sql_like_postgres``), but the program does not use it: its licence is the GPL, this program's is the Apache
License; it has 33 MB; it knows the grammar of one version of Postgres, so a statement of a later server could not be
run; it reads no text with parameters such as ``%(id)s``; and to keep the author's layout and comments, names would be
replaced by their place in the text with it as well.

What is not understood:

- ``standard_conforming_strings = off``: a backslash before a quote is taken for a character, as by default;
- psql: its commands (``\gset``), its variables (``:name``), and data below ``COPY ... FROM stdin``;
- ``END`` or ``CASE`` as a column's name without ``AS``, in a body that begins with ``BEGIN ATOMIC`` (nor does psql).
"""

import re
import textwrap

TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* )
    | (?P<block> /\* )
    | (?P<quoted> [eE]'(?:[^'\\]|\\.|'')*' (?: (?:[^\S\n]|--[^\n]*+)*\n (?:\s|--[^\n]*+\n)* '(?:[^'\\]|\\.|'')*' )*
                | '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<body> (?P<tag> \$ (?:[A-Za-z_\u0080-\U0010ffff] [0-9A-Za-z_\u0080-\U0010ffff]*)? \$ ) .*? (?P=tag) )
    | (?P<word> [A-Za-z_\u0080-\U0010ffff] [0-9A-Za-z_$\u0080-\U0010ffff]* )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
BLOCK_EDGE = re.compile(r"/\*|\*/")
ENDS_TRANSACTION = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE"}
)
CREATES_ROUTINE = re.compile(r"\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\b", re.IGNORECASE)


def split(text: str) -> list[str]:
    """The statements, without the semicolons that end them and without comments."""
    found = _Statements()
    at = 0
    while token := TOKEN.match(text, at):
        at = token.end()
        if token["block"]:
            at = after_block(text, at)
            found.add(" ")
        elif token["comment"]:
            found.add(" ")
        elif token["word"]:
            found.word(token["word"])
        else:
            found.symbol(token[0])
    return found.all()


def closes_what_it_opens(text: str) -> bool:
    """Whether a statement can stand between brackets: its own are in pairs."""
    at, open_brackets = 0, 0
    while token := TOKEN.match(text, at):
        at = after_block(text, token.end()) if token["block"] else token.end()
        open_brackets += {"(": 1, ")": -1}.get(token[0], 0)
        if open_brackets < 0:
            return False
    return open_brackets == 0


def ends_transaction(statement: str) -> str | None:
    """The word with which a statement begins or ends a transaction, or a part of one; None when it does not."""
    word = statement.split(None, 1)[0].upper().rstrip(";") if statement.strip() else ""
    return word if word in ENDS_TRANSACTION else None


def shortened(statement: str, width: int = 80) -> str:
    """A statement on one line, and where that is too long, as many of its words as fit."""
    return textwrap.shorten(statement, width, placeholder=" …")


def after_block(text: str, at: int) -> int:
    """Where a comment ends whose opening is before ``at``; one may hold others."""
    depth = 1
    while depth and (edge := BLOCK_EDGE.search(text, at)):
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at if not depth else len(text)


class _Statements:
    """Statements as they grow, and what the current one is inside of."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._parts: list[str] = []
        self._brackets = 0
        self._blocks = 0
        """BEGIN ATOMIC, and CASE within it: each has its END."""
        self._last = ""
        """The word or the symbol before."""

    def add(self, part: str) -> None:
        self._parts.append(part)

    def word(self, word: str) -> None:
        lower = word.lower()
        opens_body = lower == "atomic" and self._last == "begin"
        if self._last in {"as", "."}:  # a name, which may be a reserved word there
            pass
        elif self._blocks and lower == "end":
            self._blocks -= 1
        elif (self._blocks and lower == "case") or (opens_body and CREATES_ROUTINE.match("".join(self._parts))):
            self._blocks += 1
        self._last = lower
        self.add(word)

    def symbol(self, symbol: str) -> None:
        if symbol == ";" and not self._brackets and not self._blocks:
            self._end()
            return
        if not symbol.isspace():
            self._last = symbol
        self._brackets = max(0, self._brackets + {"(": 1, ")": -1}.get(symbol, 0))
        self.add(symbol)

    def all(self) -> list[str]:
        self._end()
        return self._done

    def _end(self) -> None:
        statement = "".join(self._parts).strip()
        if statement:
            self._done.append(statement)
        self._parts, self._brackets, self._blocks, self._last = [], 0, 0, ""
