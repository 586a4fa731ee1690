"""Searches all scopes and prints the tables of README.md here: `python -m tests.model`; with `--write`, into it."""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any, Final, get_args

from tests.model.cases import SCOPES, WITHOUT, Scope, Subject, Without
from tests.model.search import Result

PAGE: Final = Path(__file__).parent / "README.md"


def scopes_table(only: Subject | None, page: str) -> str:
    """States by scope; the seconds are of this run.

    :param only: what is searched; of all else, the page's lines stay.
    """
    head = ["| scope | histories | states | seconds |", "|---|---|---|---|"]
    lines = [_searched(each) if only in (None, each.subject) else _line(page, each.name) for each in SCOPES]
    return "\n".join([*head, *lines])


def _searched(scope: Scope) -> str:
    began = time.monotonic()
    found = scope.search()
    if found.wrong:
        raise SystemExit(f"{scope.name}: {found.wrong}\n" + "\n".join(step.words for step in found.steps))
    return scope_line(scope, found, time.monotonic() - began)


def _line(page: str, of: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| {of} |"))


def scope_line(scope: Scope, found: Result[Any], seconds: float) -> str:
    """A line of that table."""
    return f"| {scope.name} | {len(scope.models):,} | {found.states:,} | {seconds:.0f} |"


def guards_table(only: Subject | None, page: str) -> str:
    """What breaks without each guard; ``only`` as above."""
    head = ["| without | so that | breaks | steps | the shortest way |", "|---|---|---|---|---|"]
    lines = [
        guard_line(each, each.search()) if only in (None, each.subject) else _line(page, _names(each))
        for each in WITHOUT
    ]
    return "\n".join([*head, *lines])


def _names(without: Without) -> str:
    return " and ".join(f"`{guard.name}`" for guard in without.guards)


def guard_line(without: Without, found: Result[Any]) -> str:
    """A line of that table."""
    names = _names(without)
    instead = "; ".join(guard.value for guard in without.guards)
    if not found.wrong:
        other = f"`{without.stands_in.name}` alone is enough" if without.stands_in else "?"
        return f"| {names} | {instead} | nothing: {other} | | |"
    way = "; ".join(step.words for step in found.steps)
    return f"| {names} | {instead} | {found.wrong} | {len(found.steps)} | {way} |"


def replaced(page: str, name: str, table: str) -> str:
    """The page with a table between its marks replaced."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    return re.sub(f"{start}.*{end}", lambda _: f"{start}\n{table}\n{end}", page, flags=re.DOTALL)


def main() -> None:
    """Search, print, and write if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into tests/model/README.md")
    parser.add_argument("--only", choices=get_args(Subject), help="search this, and leave the other lines as they are")
    given = parser.parse_args()
    page = PAGE.read_text()
    tables = {"guards": guards_table(given.only, page), "scopes": scopes_table(given.only, page)}
    sys.stdout.write("\n\n".join(tables.values()) + "\n")
    if given.write:
        for name, table in tables.items():
            page = replaced(page, name, table)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
