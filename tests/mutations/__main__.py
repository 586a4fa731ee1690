"""Breaks the engine on purpose, one place at a time, and runs the tests that see it: `python -m tests.mutations`.

Each is made in a copy of the tree. With `--write`, the table goes into README.md here. One that no test sees is an
error.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutations.breaking import marked_places
from tests.mutations.cases import MUTATIONS, Mutation

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "replicator"
PAGE: Final = Path(__file__).parent / "README.md"
COPIED: Final = ("replicator", "transforms", "sql", "tests", "pyproject.toml", "README.md", "docs")
SECONDS: Final = 400
TABLE: Final = ("| marker | file | change | what is wrong then | seen by | seconds |", "|---|---|---|---|---|---|")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one."""

    mutation: Mutation
    file: str
    caught: bool
    by: str
    seconds: float


def attempt(tree: Path, mutation: Mutation) -> Outcome:
    """Break a copy of the tree, run the test, and mend the copy."""
    path, marked = marked_places(tree / "replicator")[mutation.marker]
    path.write_text(mutation.done(marked))
    began = time.monotonic()
    file, _, words = mutation.test.partition(" ")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{file}"]
    command += ["-k", words] if words else []
    command += ["--servers", mutation.server] if file.startswith("integration") else []
    try:
        ended = subprocess.run(
            command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        output, code = ended.stdout, str(ended.returncode)
    except subprocess.TimeoutExpired:
        output, code = "", "none in time"
    finally:
        path.write_text(marked.text)
    failed = [line.split(" ")[1] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    caught = code == "1" and bool(failed)
    by = failed[0].removeprefix("tests/") if caught else f"{mutation.test}: exit {code}"
    name = path.relative_to(tree / "replicator").as_posix()
    return Outcome(mutation=mutation, file=name, caught=caught, by=by, seconds=time.monotonic() - began)


def line_of(outcome: Outcome) -> str:
    """A line of the table."""
    by = f"`{outcome.by}`" if outcome.caught else f"**nothing** ({outcome.by})"
    mutation = outcome.mutation
    done = _short(str(mutation.done))
    return f"| {mutation.marker} | {outcome.file} | {done} | {mutation.wrong} | {by} | {outcome.seconds:.0f} |"


def _short(text: str) -> str:
    return (text if len(text) < 90 else f"{text[:86]} …").replace("|", "\\|")


def main() -> int:
    """Run all, or those whose file or test has some words in it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into tests/mutations/README.md")
    parser.add_argument("only", nargs="?", default="", help="words of the marker's, the file's or the test's name")
    arguments = parser.parse_args()
    files = {name: path.as_posix() for name, (path, _) in marked_places(PACKAGE).items()}
    chosen = [each for each in MUTATIONS if arguments.only in f"{each.marker} {files[each.marker]} {each.test}"]
    head, _, table = PAGE.read_text().partition("\n" + "\n".join(TABLE) + "\n")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines()}  # the others stay as they are
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        tree.chmod(0o755)  # a server that the tests start runs as somebody else
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, tree / name)
        for mutation in chosen:
            outcome = attempt(tree, mutation)
            survived += not outcome.caught
            rows[mutation.marker] = line_of(outcome)
            sys.stdout.write(rows[mutation.marker] + "\n")
            sys.stdout.flush()
    if arguments.write:
        written = [rows[each.marker] for each in MUTATIONS if each.marker in rows]
        PAGE.write_text("\n".join([head, *TABLE, *written, ""]))
    sys.stdout.write(f"{len(chosen)} mutations, {survived} not seen by any test\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
