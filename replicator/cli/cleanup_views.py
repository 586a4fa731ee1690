"""What cleanup is going to do, and what it has done, in words and tables."""

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from replicator.terminal.text import counted, sized

if TYPE_CHECKING:
    from replicator.runbook.backup import Archive
    from replicator.runbook.cleanup import Plan


def cleanup_plan(planned: "Plan") -> RenderableType:
    """What would go, what would stay, and what is in the way."""
    if not planned.tables:
        return Text("No old table is left to drop.")
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("to be dropped")
    for name in ("rows, about", "size"):
        grid.add_column(name, justify="right")
    grid.add_column("with it")
    for each in planned.tables:
        parts = [f"sequence {name}" for name in each.sequences] + [f"partition {name}" for name in each.members[1:]]
        grid.add_row(Text(str(each)), f"{each.estimate:,}", sized(each.bytes), Text(", ".join(parts)))
    shown: list[RenderableType] = [grid]
    if planned.left:
        shown.append(Text(f"stays in the old schema: {', '.join(planned.left)}"))
    if planned.backup:
        proof = "restore-tested" if planned.backup.restore_tested else "not restore-tested"
        shown.append(Text(f"backup since the cutover: {planned.backup.folder}, {proof}"))
    shown.extend(Text(each, style="yellow") for each in planned.beside)
    shown.extend(
        Text.assemble(("in the way: ", "bold red"), each.problem, (f" {each.remedy}", "yellow"))
        for each in planned.obstacles
    )
    return Group(*shown)


def cleanup_facts(planned: "Plan") -> dict[str, Any]:
    """The same as JSON."""
    names = ("sequences", "bytes", "estimate")
    return {
        "tables": [{"table": str(each)} | {name: getattr(each, name) for name in names} for each in planned.tables],
        "left": planned.left,
        "obstacles": [vars(each) for each in planned.obstacles],
        "beside": planned.beside,
        "backup": planned.backup.folder if planned.backup else None,
        "bytes": planned.bytes,
    }


def cleaned(planned: "Plan", made: "Archive") -> str:
    """What ``cleanup`` prints in the end."""
    rows = sum(each.rows for each in made.fingerprints.values())
    return (
        f"[bold green]The old tables are gone:[/] {counted(len(planned.tables), 'table')}, {counted(rows, 'row')}, "
        f"{sized(planned.bytes)} freed. The archive takes {sized(made.bytes)}, in {escape(str(made.folder))}."
    )
