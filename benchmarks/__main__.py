"""The command: `python -m benchmarks [--scale quick] [--only follow] [--keep]`, or `make bench`."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console

from benchmarks import kept, page
from benchmarks.catalogue import BENCHMARKS, CURVES
from benchmarks.report import as_table
from benchmarks.run import Found, run
from benchmarks.scale import SCALES


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; returns 1 when a benchmark failed."""
    given = _parse(arguments)
    scale = SCALES[given.scale]
    chosen = [each for each in BENCHMARKS if given.only in each.name]
    curves = [each for each in CURVES if given.only in each.name] if given.curves else []
    if not chosen and not curves:
        names = ", ".join([each.name for each in BENCHMARKS] + [each.name for each in CURVES])
        print(f"There is no benchmark with {given.only!r} in its name. There are: {names}.", file=sys.stderr)  # noqa: T201
        return 2
    console = Console(stderr=True, highlight=False)
    found = run(scale, chosen, curves, console)
    before = kept.read(scale.name)
    output = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    output.print(as_table(found.outcomes, f"{scale.name}: {found.machine['hardware']}; {found.machine['load']}"))
    for sentence in found.failures:
        output.print(f"failed: {sentence}", markup=False)
    for sentence in kept.worse(before, found.outcomes, found.machine):
        output.print(f"more than 20 % worse than kept: {sentence}", markup=False)
    if given.keep:
        kept.write(scale.name, _document(found, sys.argv[1:] if arguments is None else arguments))
        page.write()
    return int(bool(found.failures))


def _document(found: Found, arguments: Sequence[str]) -> kept.Kept:
    return {
        "machine": found.machine,
        "at": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "lines": {each.line.work: each.as_json() for each in found.outcomes},
        "curves": {
            name: {str(size): dataclasses.asdict(point) for size, point in points.items()}
            for name, points in found.curves.items()
        },
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--scale", choices=list(SCALES), default="full", help="how much work (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="WORD", help="only those with this in their name")
    parser.add_argument("--no-curves", dest="curves", action="store_false", help="leave out what the plots need")
    parser.add_argument("--keep", action="store_true", help="keep the figures: kept.json, README.md and the plots")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
