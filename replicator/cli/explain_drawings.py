"""``explain`` as drawings: a Mermaid flowchart, and one HTML page that loads nothing."""

from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING

from replicator.cli.consequence_views import lines

if TYPE_CHECKING:
    from replicator.runbook.explaining import Explanation, OldColumn, OldTable

Edge = tuple[str, str, str]
"""From, to, and what is written beside it."""

ROW, WIDTH, GAP, TOP = 34, 240, 260, 40
"""Of the drawing, in pixels: a box with the space below it, its width, the space between the columns, and above all."""

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8883; --mark: #b45309; }
@media (prefers-color-scheme: dark) { :root { --mark: #fbbf24; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; width: 100%; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--soft); vertical-align: top; }
th { font-weight: 600; } code { font-size: .95em; } .mark { color: var(--mark); } .soft { opacity: .65; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; font: 13px system-ui, sans-serif; }
svg rect { fill: var(--soft); stroke: var(--line); } svg path { fill: none; stroke: var(--line); stroke-width: 1.5; }
""".strip()


def edges(found: "Explanation") -> list[Edge]:
    """From each old table, through the queries that read it, to its new tables; each once."""
    queries = {each.name: each for each in found.queries if each.direction == "forward"}
    drawn: dict[Edge, None] = {}
    for step in found.steps:
        if step.direction != "forward":
            continue
        through = queries.get(step.source)
        for table in through.tables if through else (step.source,):
            label = step.name if through is None else f"{step.name} (query {through.name})"
            drawn[table, step.into, label] = None
    return list(drawn)


# ---- Mermaid


def as_mermaid(found: "Explanation") -> str:
    """A flowchart from left to right: old tables, transforms on the arrows, new tables."""
    old = {each.name: f"o{number}" for number, each in enumerate(found.tables)}
    new = {into: f"n{number}" for number, into in enumerate(dict.fromkeys(each for _, each, _ in edges(found)))}
    lines = ["flowchart LR", f'  subgraph old["{_quoted(found.old)}"]']
    lines += [f'    {old[each.name]}["{_quoted(each.name)}{_fate(each)}"]' for each in found.tables]
    lines += ["  end", f'  subgraph new["{_quoted(found.new)}"]']
    lines += [f'    {node}["{_quoted(name)}"]' for name, node in new.items()]
    lines += ["  end"]
    lines += [
        f'  {old[table]} -->|"{_quoted(label)}"| {new[into]}' for table, into, label in edges(found) if table in old
    ]
    lines += ["  classDef gone stroke-dasharray: 4 4"]
    gone = [old[each.name] for each in found.tables if each.fate in ("retired", "left")]
    lines += [f"  class {','.join(gone)} gone"] if gone else []
    return "\n".join(lines)


def _fate(table: "OldTable") -> str:
    return {"retired": "<br/>retired", "left": "<br/>left alone"}.get(table.fate, "")


def _quoted(text: str) -> str:
    """What Mermaid takes for syntax, as entities."""
    return escape(text).replace("#", "#35;").replace("&quot;", "#quot;").replace("&#35;", "#35;")


# ---- HTML


def as_html(found: "Explanation") -> str:
    """One page: the drawing, then tables, transforms, queries, and what the cutover does."""
    title = f"{escape(found.migration)}: {escape(found.old)} to {escape(found.new)}"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        *_drawing(found),
        "<h2>Old tables</h2>",
        *(line for each in found.tables for line in _table(found, each)),
        "<h2>Transforms</h2>",
        *_rows(
            ("transform", "direction", "from", "into", "key", "reads", "writes"),
            (
                (
                    each.name,
                    each.direction,
                    each.source,
                    each.into,
                    each.key,
                    *map(", ".join, (each.reads, each.writes)),
                )
                for each in found.steps
            ),
        ),
        *_queries(found),
        *_consequences(found),
        *(f'<p class="mark">{escape(note)}</p>' for note in found.notes),
        "</body></html>",
    ]
    return "\n".join(parts)


def _drawing(found: "Explanation") -> Iterator[str]:
    old = {each.name: TOP + ROW * place for place, each in enumerate(found.tables)}
    new = {
        name: TOP + ROW * place for place, name in enumerate(dict.fromkeys(into for _, into, _ in edges(found)))
    }  # fmt: skip
    height = TOP + ROW * max(len(old), len(new), 1)
    right = WIDTH + GAP
    yield f'<svg viewBox="0 0 {right + WIDTH} {height}" role="img" aria-label="Old tables, and the new ones they fill">'
    yield f'<text x="8" y="20">{escape(found.old)}</text><text x="{right + 8}" y="20">{escape(found.new)}</text>'
    for table, into, label in edges(found):
        if table in old:
            start, end, middle = old[table] + 13, new[into] + 13, WIDTH + GAP // 2
            yield (
                f'<path d="M{WIDTH} {start} C{middle} {start} {middle} {end} {right} {end}">'
                f"<title>{escape(label)}</title></path>"
            )
    for x, boxes in ((0, old), (right, new)):
        for name, y in boxes.items():
            yield f'<rect x="{x}" y="{y}" width="{WIDTH}" height="26" rx="4"/>'
            yield f'<text x="{x + 8}" y="{y + 17}">{escape(name)}</text>'
    yield "</svg>"


def _table(found: "Explanation", table: "OldTable") -> Iterator[str]:
    into = ", ".join(f"{found.new}.{each}" for each in table.into)
    said = {"retired": f"retired: {table.because}", "left": "left alone", "read": "read by queries alone"}
    beside = " ".join(filter(None, (into and f"to {into}", said.get(table.fate))))
    yield f'<h3>{escape(table.name)} <span class="soft">{escape(beside)}</span></h3>'
    if table.columns:
        yield from _rows(("column", "type", ""), ((each.name, each.type, _column(each)) for each in table.columns))


def _column(column: "OldColumn") -> str:
    if column.fate == "retired":
        return f"retired: {column.because}"
    if column.fate == "read":
        to = "; ".join(f"to {into}.{name}" for into, name in column.to.items())
        return to or f"read by {', '.join(column.by)}"
    return "not known: the table has no rows" if column.fate == "unknown" else "no transform reads it"


def _queries(found: "Explanation") -> Iterator[str]:
    if found.queries:
        yield "<h2>Queries</h2>"
        yield from _rows(
            ("query", "key", "reads", "a change"),
            (
                (
                    each.name,
                    ", ".join(each.key),
                    "; ".join(f"{table} ({', '.join(columns)})" for table, columns in each.tables.items()),
                    "; ".join(f"in {table}: {which}" for table, which in each.depends_on.items()),
                )
                for each in found.queries
            ),
        )


def _consequences(found: "Explanation") -> Iterator[str]:
    if found.consequences is not None:
        yield "<h2>What the cutover does</h2>"
        yield from _rows(("", ""), lines(found.consequences.as_json()))


def _rows(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"
    for row in rows:
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
    yield "</table>"
