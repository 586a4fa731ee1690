"""The plots: rows a second and memory over a size, from the kept figures."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.benchmark import Curve

FOLDER = Path(__file__).with_name("plots")
SIZE = (7.0, 3.4)
"""In inches."""


def file_of(curve: Curve, folder: Path = FOLDER) -> Path:
    """Where a curve's plot is."""
    return folder / f"{curve.name.replace(' ', '-')}.svg"


def draw(curve: Curve, points: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Draw a curve from its kept points, by their sizes, with ``rate`` and ``memory``."""
    mpl.rcParams["svg.hashsalt"] = "replicator"  # else each drawing of the same figures is another file
    figure = Figure(figsize=SIZE, layout="constrained")
    sizes = sorted(map(int, points))
    left, right = figure.subplots(1, 2)
    for axes, what, label in ((left, "rate", "rows/s"), (right, "memory", "MB, the process's peak")):
        axes.plot(sizes, [points[str(size)][what] for size in sizes], marker="o")
        axes.set_xscale(curve.axis)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(curve.over)
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
    figure.suptitle(curve.name)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
