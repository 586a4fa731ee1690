"""``--types-table PATH``: writes which types have been seen to pass by which route, on which servers.

Tests say what they have seen with ``record_types``; the reports carry it, from the processes of pytest-xdist too.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.type_catalogue import EXCLUDED, NUMBERS, OTHERS

ROUTES = ("backfill", "wal2json", "pgoutput", "verify", "reverse")
PROPERTY = "types"

Outcomes = dict[tuple[str, str], dict[int, bool]]
"""Type and route to the servers' versions, and whether it passed there."""

RecordTypes = Callable[[str, int, dict[str, bool]], None]

SEEN = pytest.StashKey[Outcomes]()

HEAD = """\
# Types, and the ways that they go

Made by `make types-table`, which runs `tests/integration/test_types.py`; the types and their values are in
`tests/type_catalogue.py`. A cell names the Postgres versions on which every value of the type arrived byte for byte, as
`column::text` prints it: plain, in arrays, under domains, in arrays of domains, in domains over arrays, and in domains
over domains. Where a version is missing, its server has not got the type; wal2json is tested on 15 alone.

- **backfill**: copied by chunks.
- **wal2json**, **pgoutput**: inserted, updated, and left alone by an update (out of line), by the stream.
- **verify**: not one true value is called divergent, and each wrong one is.
- **reverse**: the stream of the new tables, through the reverse transforms, into the old ones.

"""
FOOT = """\
Built-in types that no column of a user's can be filled with are not here: {}.

Of an `xml` document that declares its encoding, the declaration is lost: Postgres prints the document without it, to
the log and to everybody, and only `column::text` shows it.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--types-table", metavar="PATH", help="write the table of types and routes that this run has seen")


def pytest_configure(config: pytest.Config) -> None:
    seen: Outcomes = defaultdict(dict)
    config.stash[SEEN] = seen
    if config.getoption("--types-table"):
        config.pluginmanager.register(Collector(seen))


@pytest.fixture
def record_types(record_property: Callable[[str, object], None]) -> RecordTypes:
    """Tells the table, for one route on one server, which types passed."""

    def record(route: str, version: int, passed: dict[str, bool]) -> None:
        record_property(PROPERTY, json.dumps({"route": route, "version": version, "passed": passed}))

    return record


class Collector:
    """Puts together what the reports of all processes carry."""

    def __init__(self, seen: Outcomes) -> None:
        self.seen = seen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            collect(self.seen, report.user_properties)


def collect(seen: Outcomes, properties: Iterable[tuple[str, Any]]) -> None:
    """Add what one test has recorded."""
    for name, text in properties:
        if name == PROPERTY:
            found = json.loads(text)
            for kind, passed in found["passed"].items():
                versions = seen[kind, found["route"]]
                versions[found["version"]] = passed and versions.get(found["version"], True)


def holes(seen: Outcomes) -> list[str]:
    """The cells that nothing, or a failure, stands in."""
    return [
        f"{case.name} by {route}"
        for case in (*NUMBERS, *OTHERS)
        for route in ROUTES
        if not (versions := seen.get((case.name, route), {})) or not all(versions.values())
    ]


def table(seen: Outcomes) -> str:
    """The whole page."""
    lines = [f"| type | {' | '.join(ROUTES)} |", f"|{'---|' * (len(ROUTES) + 1)}"]
    for case in (*NUMBERS, *OTHERS):
        cells = [_cell(seen.get((case.name, route), {})) for route in ROUTES]
        lines.append(f"| `{case.name}` | {' | '.join(cells)} |")
    excluded = ", ".join(f"`{name}` ({reason})" for name, reason in EXCLUDED.items())
    return HEAD + "\n".join(lines) + "\n\n" + FOOT.format(excluded)


def _cell(versions: dict[int, bool]) -> str:
    return " ".join(str(each) if versions[each] else f"{each} FAILS" for each in sorted(versions)) or "NOT TRIED"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    path = config.getoption("--types-table")
    if not path:
        return
    seen = config.stash[SEEN]
    Path(path).write_text(table(seen), encoding="utf-8")
    missing = holes(seen)
    terminalreporter.write_line(f"{path}: {len(missing)} holes{': ' if missing else ''}{', '.join(missing)}")
