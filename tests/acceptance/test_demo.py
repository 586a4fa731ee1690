"""`replicator demo`, as a user meets it: it goes through, says so, says when it does not, and leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from replicator.demo import run
from replicator.demo.ledger import Ledger
from replicator.demo.verdict import Figures, judge
from replicator.errors import ExitCode
from replicator.migration import Migration
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
LAST_LINE = re.compile(r"demo: cutover complete, write pause \d+ ms, divergence 0, lost writes 0\n")

pytestmark = pytest.mark.timeout(400)


class Run:
    """One run of the command: everything that it starts and leaves can be told from what else is on the machine."""

    def __init__(self, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="demo-test-", dir="/tmp"))
        self.folder.chmod(0o755)
        # What runs in the background of a shell ignores SIGINT, and hands that down.
        heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "replicator", "demo", *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.folder), "DEMO_TEST_MARK": self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGINT, heeded)
        self.said: list[str] = []

    def wait_for(self, words: str) -> None:
        """Read until a line has these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if words in line:
                return
        pytest.fail(f"it never said {words!r}, but: {''.join(self.said)}")

    def started(self, words: str) -> psutil.Process:
        """The process of this run whose command line has these words."""
        [found] = [process for process, line in self.processes().items() if words in line]
        return found

    def processes(self) -> dict[psutil.Process, str]:
        """What runs of it, with the command lines."""
        found = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get("DEMO_TEST_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found[process] = " ".join(process.cmdline())
            except psutil.Error:
                continue
        return found

    def finish(self) -> tuple[str, str]:
        """Wait for its end; gives what it said on standard output and on standard error."""
        output, errors = self.process.communicate(timeout=350)
        return output, "".join([*self.said, errors])

    def leaves_nothing(self) -> None:
        def left() -> list[object]:
            return [*self.processes(), *self.folder.iterdir()]

        wait_until(lambda: not left(), said=left)

    def clear_away(self) -> None:
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def start() -> Iterator[Any]:
    runs: list[Run] = []

    def begin(*arguments: str) -> Run:
        runs.append(Run(*arguments))
        return runs[-1]

    yield begin
    for each in runs:
        each.clear_away()


def test_the_figures(start: Any) -> None:
    demo = start("--rows", "5000", "--rate", "100", "--json")
    output, errors = demo.finish()
    assert demo.process.returncode == 0, errors
    assert errors == ""
    figures = json.loads(output)
    assert figures["ok"] is True
    assert figures["divergence"] == figures["lost_writes"] == 0
    assert figures["errors"] == {}
    assert figures["examples"] == []
    assert figures["requests"] == 5000
    assert figures["rate"] == 100
    assert figures["postgres"] == 18
    assert figures["backfill_rows"] > 4500
    assert 0 < figures["backfill_seconds"] < figures["seconds"] < 350
    assert figures["transactions"]["public"] > 100
    assert figures["transactions"]["party"] > 100
    assert figures["rolled_back"] > 0
    assert figures["refused"] > 0
    assert 0 < figures["write_pause_seconds"] < 5
    assert figures["slowest_write_seconds"] > 0
    assert figures["verified_rows"] > 4500
    assert figures["compared_rows"] > 9000
    assert figures["keys_written"] > 5500
    demo.leaves_nothing()


def test_the_last_line_and_the_steps(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")  # for other servers than this one
    monkeypatch.setenv("REPLICATOR_TARGET_DSN", "postgresql://nobody@127.0.0.1:1/none")
    demo = start("--rows", "300", "--rate", "60")
    output, steps = demo.finish()
    assert demo.process.returncode == 0, steps
    assert LAST_LINE.fullmatch(output)
    times = [float(line.split()[0]) for line in steps.splitlines()]
    assert times == sorted(times)
    for words in ("Postgres", "old tables", "writers write", "daemon runs", "backfill", "indexes", "gates", "cut over",
                  "moved to the schema party", "verify", "writers have stopped", "compared both ways"):  # fmt: skip
        assert words in steps
    demo.leaves_nothing()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_leaves_nothing(start: Any, sign: signal.Signals) -> None:
    demo = start("--rows", "300", "--rate", "60")
    demo.wait_for("the daemon runs")
    assert demo.started("replicator run")
    assert demo.started("replicator.demo.writers")
    demo.process.send_signal(sign)
    demo.finish()
    assert demo.process.returncode == (-9 if sign == signal.SIGKILL else 130)
    demo.leaves_nothing()


@pytest.mark.parametrize("who, words", [("daemon", "replicator run"), ("writers", "replicator.demo.writers")])
def test_without_one_of_its_parts_it_fails(start: Any, who: str, words: str) -> None:
    demo = start("--rows", "300", "--rate", "60")
    demo.wait_for("the daemon runs")
    demo.started(words).kill()
    output, errors = demo.finish()
    assert demo.process.returncode == ExitCode.FAILED
    assert output == ""
    assert f"error: The {who} got killed by SIGKILL." in errors
    assert who == "writers" or "the last that the daemon said" in errors
    demo.leaves_nothing()


def test_a_row_lost_on_the_way_fails_it(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """What it would be if the engine had lost one, and had not noticed."""

    def sabotaged(dsn: str, migration: Migration, ledger: Ledger, figures: Figures) -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("DELETE FROM party.requests WHERE id = (SELECT min(id::text)::uuid FROM party.requests)")
        judge(dsn, migration, ledger, figures)

    monkeypatch.setattr(run, "judge", sabotaged)
    monkeypatch.setattr(run, "SOAK_SECONDS", 1.0)
    assert run.run_demo(rows=300, rate=60, json=True) == ExitCode.FAILED
    output, errors = capfd.readouterr()
    figures = json.loads(output)
    assert (figures["ok"], figures["divergence"], figures["lost_writes"]) == (False, 2, 1)
    assert "has no row in the schema party; acknowledged was the version" in errors


def test_without_a_server_it_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from replicator.runtime import binaries\n"
        "binaries.wheel_binaries = lambda: None\n"
        "binaries.installed_binaries = lambda: []\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "replicator", "demo"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == (
        "error: No Postgres server binaries were found.\n"
        "  what to do: Install the demo extra (pip install 'replicator[demo]'), or Postgres (Debian: apt-get install "
        "postgresql).\n"
    )
