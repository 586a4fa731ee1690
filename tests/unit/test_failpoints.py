"""Failpoints: how they are armed, and that each stands at exactly one kind of place in the code."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import ConnectionLostError, UsageError
from replicator.runtime import failpoints
from replicator.runtime.failpoints import VARIABLE, Arming, Failpoint, handled, parse, reach

PACKAGE = Path(failpoints.__file__).parents[1]


@pytest.fixture(autouse=True)
def _unarmed() -> Iterator[None]:
    failpoints._armed.cache_clear()
    failpoints._passed.clear()
    yield
    failpoints._armed.cache_clear()
    failpoints._passed.clear()


def test_a_list_is_read() -> None:
    assert parse("staged:3:kill,leased:1:hang:0.5,") == {
        Failpoint.STAGED: Arming(passing=3, action="kill"),
        Failpoint.LEASED: Arming(passing=1, action="hang", seconds=0.5),
    }
    assert parse("") == {}


@pytest.mark.parametrize("text", ["nowhere:1:kill", "staged:x:kill", "staged:1", "staged:1:explode", "staged:1:hang:x"])
def test_what_cannot_be_read_is_said(text: str) -> None:
    with pytest.raises(UsageError, match=VARIABLE):
        parse(text)


async def test_it_acts_at_one_passing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "staged:2:lose")
    await reach(Failpoint.STAGED)
    await reach(Failpoint.LEASED)
    with pytest.raises(ConnectionLostError):
        await reach(Failpoint.STAGED)
    await reach(Failpoint.STAGED)


async def test_a_function_is_called_there_as_long_as_it_is_asked_for() -> None:
    said: list[str] = []

    async def outer() -> None:
        said.append("outer")

    async def inner() -> None:
        said.append("inner")
        raise LookupError

    with handled(Failpoint.STAGED, outer):
        with handled(Failpoint.STAGED, inner), pytest.raises(LookupError):
            await reach(Failpoint.STAGED)
        await reach(Failpoint.STAGED)
        await reach(Failpoint.LEASED)
    await reach(Failpoint.STAGED)
    assert said == ["inner", "outer"]


async def test_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "staged:1:hang:60")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reach(Failpoint.STAGED)


@pytest.mark.parametrize(
    ("action", "number"),
    [
        ("kill", signal.SIGKILL),
        ("term", signal.SIGTERM),
        ("kill:0.01", signal.SIGKILL),
    ],
)
def test_it_ends_its_own_process(action: str, number: signal.Signals) -> None:
    program = (
        "import asyncio\n"
        "from replicator.runtime.failpoints import Failpoint, reach\n"
        "async def main():\n"
        "    await reach(Failpoint.STAGED)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {VARIABLE: f"staged:1:{action}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -number
    assert b"staged" in done.stdout + done.stderr


@pytest.mark.parametrize("point", list(Failpoint))
def test_each_has_its_place(point: Failpoint) -> None:
    sources = [path for path in PACKAGE.rglob("*.py") if path.name != "failpoints.py"]
    reached = re.compile(rf"(reach\(|committed=|committed: Failpoint = )Failpoint\.{point.name}\b")
    places = [path for path in sources if reached.search(path.read_text())]
    assert places, f"{point.name} is reached nowhere"
