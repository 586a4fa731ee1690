"""Finds the code that a marker stands at, and breaks it.

A marker is a comment that ends in `mutation: <name>`, on the line itself or above it, with nothing but other comments
between them. It marks the innermost statement that has this line; in SQL, the line. A case says what to do to a part of
the statement, where possible without its text, so that renaming and moving code does not touch the cases.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

_MARKER: Final = re.compile(r"(?:#|--)(?:.*\s)?mutation: ([a-z0-9-]+)\s*$")


@dataclass(frozen=True)
class Marked:
    """A marked place in a file's text: where the line begins and where its statement ends, in characters."""

    text: str
    start: int
    end: int

    def replaced(self, start: int, end: int, instead: str) -> str:
        """The whole text with another piece between two offsets."""
        return self.text[:start] + instead + self.text[end:]

    def node(self) -> ast.stmt:
        """The statement. Raises ValueError if the file is not Python's."""
        return _statement(ast.parse(self.text), _line(self.text, self.start))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Where a node begins and ends."""
        last, behind = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
        return _offset(self.text, node.lineno, node.col_offset), _offset(self.text, last, behind)


class Break(Protocol):
    """One way to break a statement."""

    def __call__(self, marked: Marked) -> str:
        """The whole file's text, broken. Raises ValueError if the statement has not what is to be replaced."""

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Condition:
    """The condition of an `if`, `while` or comprehension is always the same. The first one behind the marker counts."""

    value: bool

    def __call__(self, marked: Marked) -> str:
        spans = sorted(marked.span(each) for each in _conditions(marked.node()))
        start, end = next(each for each in [*spans, (-1, -1)] if each[0] >= marked.start or each[0] < 0)
        if start < 0:
            raise ValueError("There is no condition.")
        return marked.replaced(start, end, str(self.value))

    def __str__(self) -> str:
        return f"the condition is {self.value}"


@dataclass(frozen=True)
class Value:
    """What is returned or assigned is something else."""

    value: str

    def __call__(self, marked: Marked) -> str:
        node = marked.node()
        if not isinstance(node, ast.Return | ast.Assign | ast.AnnAssign) or node.value is None:
            raise ValueError("Nothing is returned or assigned.")
        return marked.replaced(*marked.span(node.value), self.value)

    def __str__(self) -> str:
        return f"the value is `{self.value}`"


@dataclass(frozen=True)
class Left:
    """The statement is left out."""

    def __call__(self, marked: Marked) -> str:
        return marked.replaced(*marked.span(marked.node()), "pass")

    def __str__(self) -> str:
        return "left out"


@dataclass(frozen=True)
class First:
    """Something else is done first."""

    statement: str

    def __call__(self, marked: Marked) -> str:
        start, _ = marked.span(marked.node())
        return marked.replaced(start, start, f"{self.statement}; ")

    def __str__(self) -> str:
        return f"`{self.statement}` first"


@dataclass(frozen=True)
class Text:
    """A piece of text is another one: the first such piece from the marked line to the statement's end."""

    piece: str
    instead: str

    def __call__(self, marked: Marked) -> str:
        start = marked.text.find(self.piece, marked.start, marked.end)
        if start < 0:
            raise ValueError(f"This is not there: {self.piece}")
        return marked.replaced(start, start + len(self.piece), self.instead)

    def __str__(self) -> str:
        return f"`{self.piece}` → `{self.instead}`" if self.instead else f"without `{self.piece}`"


def markers(path: Path) -> Iterator[tuple[str, Marked]]:
    """The markers of a Python or SQL file, with what they mark. Raises ValueError if one marks nothing."""
    text = path.read_text()
    lines = text.split("\n")
    python = path.suffix == ".py"
    for number, name in _comments(text) if python else _sql_comments(lines):
        line = number
        while line <= len(lines) and _is_comment(lines[line - 1]):
            line += 1
        if line > len(lines) or not lines[line - 1].strip():
            raise ValueError(f"{path.name}: the marker {name} stands above no line of code.")
        start = _offset(text, line, 0)
        last = _statement(ast.parse(text), line).end_lineno if python else line
        yield name, Marked(text, start, _offset(text, last or line, 0) + len(lines[(last or line) - 1]))


def marked_places(package: Path) -> dict[str, tuple[Path, Marked]]:
    """All markers of a package. Raises ValueError if two have one name."""
    found: dict[str, tuple[Path, Marked]] = {}
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.sql")]):
        for name, marked in markers(path):
            if name in found:
                raise ValueError(f"Two markers are named {name}: {found[name][0].name}, {path.name}.")
            found[name] = path, marked
    return found


def _comments(text: str) -> Iterator[tuple[int, str]]:
    if "mutation: " not in text:
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and (match := _MARKER.match(token.string)):
            yield token.start[0], match[1]


def _sql_comments(lines: list[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if match := _MARKER.search(line):
            yield number, match[1]


def _is_comment(line: str) -> bool:
    return line.strip().startswith(("#", "--"))


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _offset(text: str, line: int, column: int) -> int:
    """A place in characters, of a line from 1 on and a column in bytes, as `ast` counts."""
    lines = text.split("\n")
    before = sum(len(each) + 1 for each in lines[: line - 1])
    return before + len(lines[line - 1].encode()[:column].decode())


def _statement(tree: ast.Module, line: int) -> ast.stmt:
    """The innermost statement that has a line."""
    found = [
        node for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]  # fmt: skip
    if not found:
        raise ValueError(f"No statement has line {line}.")
    return max(found, key=lambda node: (node.lineno, -(node.end_lineno or node.lineno)))


def _conditions(node: ast.stmt) -> Iterator[ast.expr]:
    for each in ast.walk(node):
        if isinstance(each, ast.If | ast.While | ast.IfExp):
            yield each.test
        elif isinstance(each, ast.comprehension):
            yield from each.ifs
