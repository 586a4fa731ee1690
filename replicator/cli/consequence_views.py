"""What a cutover would do, line by line."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from replicator.terminal.text import pause

Found = Mapping[str, Any]
"""``Consequences`` as JSON has it."""


def consequences(found: Found) -> RenderableType:
    """A line for each thing that happens, in the order in which it matters."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    before = ""
    for what, said in lines(found):
        grid.add_row(Text("" if what == before else what, style="bold"), Text(said))
        before = what
    return Group(Text("What the cutover does:", style="bold yellow"), grid)


def lines(found: Found) -> Iterator[tuple[str, str]]:
    """What happens, and to what; several lines may be about one thing."""
    renamed = found["strategy"] == "rename"
    if found["refuse"]:
        yield "refuse writes (RP002)", _listed(found["refuse"])
    if found["take"]:
        yield "take writes", _listed(found["take"])
    for before, after in found["renamed"]:
        yield "renamed", f"{before} to {after}"
    if found["strategy"] is None:
        yield "renamed", f"with --strategy rename: {_listed(f'{each} to {each}_old' for each in found['refuse'])}"
    for each in found["keys"]:
        yield "foreign keys", each
    for each in found["statements"]:
        yield "own statements", " ".join(each.split())
    for each in found["hanging"]:
        yield "hangs on an old table", f"{each['what']} ({each['table']}): {each['then']}"
    for each in found["lost"]:
        yield "not carried over", f"{each['what']} ({each['table']}): {each['then']}"
    for number, each in enumerate(found["locks"], 1):
        who = "readers and writers wait" if each["mode"] == "ACCESS EXCLUSIVE" else "writers wait"
        yield "locks", f"{number}. {each['step']}: {each['mode']} on {_listed(each['tables'])}; {who}"
    if found["pause_seconds"] is not None:
        yield "pause", f"{pause(found['pause_seconds'])} when it was rehearsed{_most(found)}"
    else:
        yield "pause", f"not measured: `replicator cutover --dry-run` does it{_most(found)}"
    kept = "" if found["way_back"] else "; there is no way back, and no rollback"
    later = "under these names, " if renamed else ""
    yield "dropped in the end", f"{_listed(found['dropped'])}, {later}by `replicator cleanup` alone{kept}"


def _most(found: Found) -> str:
    most = found.get("most_seconds")
    return f"; given up after {most:g} s (REPLICATOR_MAX_WRITE_PAUSE)" if most else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
