"""The table of types and routes: how it is put together, and that the one in the repository has no hole."""

import json
import re
from collections import defaultdict
from pathlib import Path

from tests.fix_types_table import PROPERTY, ROUTES, Outcomes, collect, holes, table
from tests.type_catalogue import NUMBERS, OTHERS

PAGE = Path(__file__).parents[1] / "types.md"
NAMES = [case.name for case in (*NUMBERS, *OTHERS)]


def seen(*records: tuple[str, int, dict[str, bool]]) -> Outcomes:
    found: Outcomes = defaultdict(dict)
    for route, version, passed in records:
        text = json.dumps({"route": route, "version": version, "passed": passed})
        collect(found, [("another", 1), (PROPERTY, text)])
    return found


def row(page: str, name: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))


def test_what_passed_where() -> None:
    found = seen(("verify", 18, {"bool": True}), ("verify", 15, {"bool": True}), ("reverse", 15, {"bool": True}))
    assert row(table(found), "bool") == "| `bool` | NOT TRIED | NOT TRIED | NOT TRIED | 15 18 | 15 |"


def test_one_failure_is_a_failure() -> None:
    found = seen(*(("verify", 15, {"bool": passed}) for passed in (True, False, True)))
    assert "15 FAILS" in row(table(found), "bool")
    assert "bool by verify" in holes(found)


def test_only_a_whole_table_has_no_hole() -> None:
    records = [(route, 15, dict.fromkeys(NAMES, True)) for route in ROUTES]
    assert holes(seen(*records)) == []
    assert holes(seen(*records[1:])) == [f"{name} by {ROUTES[0]}" for name in NAMES]


def test_the_page_in_the_repository_has_every_type_and_no_hole() -> None:
    rows = re.findall(r"^\| `(.+?)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == NAMES, "run `make types-table`"
    for name, cells in rows:
        assert re.fullmatch(r"(\s[\d ]*\d\s\|){4}\s[\d ]*\d\s", cells), name
