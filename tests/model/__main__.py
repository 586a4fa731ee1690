"""Searches all scopes and prints the tables of README.md here: `python -m tests.model`; with `--write`, into it."""

import argparse
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tests.model.cases import SCOPES, WITHOUT, Scope, Without
from tests.model.search import Result

PAGE: Final = Path(__file__).parent / "README.md"


def scopes_table(scopes: Iterable[Scope]) -> str:
    """States by scope; the seconds are of this run."""
    lines = ["| scope | histories | states | seconds |", "|---|---|---|---|"]
    for scope in scopes:
        began = time.monotonic()
        found = scope.search()
        if found.wrong:
            raise SystemExit(f"{scope.name}: {found.wrong}\n" + "\n".join(step.words for step in found.steps))
        lines.append(scope_line(scope, found, time.monotonic() - began))
    return "\n".join(lines)


def scope_line(scope: Scope, found: Result[Any], seconds: float) -> str:
    """A line of that table."""
    return f"| {scope.name} | {len(scope.models):,} | {found.states:,} | {seconds:.0f} |"


def guards_table(without: Iterable[Without]) -> str:
    """What breaks without each guard."""
    lines = ["| without | so that | breaks | steps | the shortest way |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(guard_line(each, each.search()) for each in without)])


def guard_line(without: Without, found: Result[Any]) -> str:
    """A line of that table."""
    names = " and ".join(f"`{guard.name}`" for guard in without.guards)
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
    write = parser.parse_args().write
    tables = {"guards": guards_table(WITHOUT), "scopes": scopes_table(SCOPES)}
    sys.stdout.write("\n\n".join(tables.values()) + "\n")
    if write:
        page = PAGE.read_text()
        for name, table in tables.items():
            page = replaced(page, name, table)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
