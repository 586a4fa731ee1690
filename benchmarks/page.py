"""The part of README.md that is written from the kept figures, and the plots."""

from pathlib import Path

from benchmarks import kept
from benchmarks.catalogue import BENCHMARKS, CURVES
from benchmarks.plots import draw, file_of
from benchmarks.report import as_markdown

FILE = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- kept figures: begin -->", "<!-- kept figures: end -->"
SCALES = ("full", "quick")


def text(figures: Path = kept.FILE) -> str:
    """The kept figures of each scale, as Markdown."""
    parts = []
    for scale in SCALES:
        found = kept.read(scale, figures)
        if not found:
            parts.append(f"### {scale.capitalize()}\n\nNo figures are kept yet.")
            continue
        about = "; ".join(found["machine"].values())
        parts.append(
            f"### {scale.capitalize()}\n\n`{found['command']}`, {found['at']}: {about}.\n\n"
            + as_markdown([line for each in BENCHMARKS for line in each.lines], found)
        )
        if scale == "full":
            parts += [
                f"![{curve.name}](plots/{file_of(curve).name})" for curve in CURVES if found["curves"].get(curve.name)
            ]
    return "\n\n".join(parts)


def write() -> None:
    """Write the figures into README.md, and draw the plots of the full scale."""
    before, _, rest = FILE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    FILE.write_text(f"{before}{BEGIN}\n\n{text()}\n\n{END}{after}")
    curves = kept.read("full").get("curves", {})
    for curve in CURVES:
        if points := curves.get(curve.name):
            draw(curve, points, file_of(curve))
