"""What the commands show, other than the status."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from replicator.core.retyped import PREPARED
from replicator.migration import NO_WAY_BACK, Migration
from replicator.observe.status import Gate, version
from replicator.terminal.output import word
from replicator.terminal.text import counted, pause, sized

if TYPE_CHECKING:
    from replicator.postgres.control.journal import Entry
    from replicator.preflight import Finding
    from replicator.runbook.backup import Backup
    from replicator.runbook.baseline import Measured, Probe

OUTCOMES = ("pass", "warn", "fail")
DIVERGENT = ("missing", "extra", "different")
ASIDE = (("quarantined", "in quarantine"), ("discarded", "discarded"))


def findings(found: "Sequence[Finding]") -> RenderableType:
    """One line a check, and below each that did not pass what to do; what did not pass comes last, to be seen."""
    width = max((len(each.check) for each in found), default=0)
    shown: list[RenderableType] = []
    for each in sorted(found, key=lambda each: OUTCOMES.index(each.outcome)):
        line = Table.grid(padding=(0, 2))
        line.add_column(width=4)
        line.add_column(width=width)
        line.add_row(word(each.outcome), Text(each.check), Text(each.detail))
        shown.append(line)
        if each.outcome != "pass" and each.remedy:
            shown.append(Padding(Text(f"what to do: {each.remedy}", style="yellow"), (0, 0, 0, 6), expand=False))
    return Group(*shown)


def findings_sum(found: "Sequence[Finding]") -> str:
    """The last line of ``check``."""
    failed, warned = (sum(each.outcome == outcome for each in found) for outcome in ("fail", "warn"))
    if failed:
        return f"[bold red]{counted(failed, 'check')} of {len(found)} failed.[/]"
    note = f", {counted(warned, 'warning')}" if warned else ""
    return f"[bold green]All {len(found)} checks passed{note}.[/] Next: `replicator run`"


def smoke_sum(found: "Sequence[Finding]") -> str:
    """The last line of ``smoke``."""
    failed = sum(each.outcome == "fail" for each in found)
    if failed:
        return f"[bold red]{failed} of {counted(len(found), 'check')} failed.[/]"
    if any(each.check == "reverse" and each.outcome != "pass" for each in found):
        if any(NO_WAY_BACK in each.detail for each in found):
            return "[bold green]The new schema serves.[/] [bold yellow]There is no way back.[/]"
        return "[bold green]The new schema serves.[/] [bold yellow]The way back flows, and is not open yet.[/]"
    return "[bold green]The new schema serves, and the way back is open.[/]"


def header(migration: Migration, source: str, target: str, listen: str) -> Text:
    """What ``run`` says on a terminal before the log begins."""
    where = f"on {source}" if source == target else f"from {source} to {target}"
    return Text.assemble(
        (f"replicator {version()}", "bold"),
        f"  {migration.name}: schema {migration.old} to schema {migration.new}, {where}\n",
        (f"status at http://{listen}/status; Ctrl-C stops it, the next start resumes", "dim"),
    )


def built(done: Sequence[str]) -> str:
    """The last line of ``schema``."""
    return f"[bold green]{counted(len(done), 'statement')} run.[/]" if done else "Nothing was due."


def generated(
    written: Sequence[str], unchanged: Sequence[str], yours: Sequence[str], remarks: Mapping[str, Sequence[Any]]
) -> RenderableType:
    """What ``schema --generate`` has written, and what the author must look at."""
    lines = [Text(f"written: {each}") for each in written]
    lines += [Text(f"as it was: {each}", style="dim") for each in unchanged]
    lines += [Text(f"{each} is made by a file of yours: nothing is written for it", style="dim") for each in yours]
    for table, found in remarks.items():
        lines += [Text(f"{table}: {each.what}: {each.why}. {each.remedy}", style="yellow") for each in found]
    count = sum(len(each) for each in remarks.values())
    look = f" {counted(count, 'thing')} to look at: the files say so too." if count else ""
    return Group(*lines, Text(f"{counted(len(written), 'file')} written.{look}", style="bold"))


def gates(shown: Iterable[Gate]) -> RenderableType:
    """One line a gate, with why it is open or not."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for each in shown:
        table.add_row(word("ok" if each["ok"] else "no"), Text(each["name"]), Text(each["detail"]))
    return table


def divergence(tables: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What was compared, table by table, and the keys of some rows that differ."""
    return Group(
        _compared(tables), *(_example(table["table"], each) for table in tables for each in table.get("examples", ()))
    )


def verification_sum(result: Mapping[str, Any]) -> str:
    """The last line of ``verify``."""
    rows = counted(sum(each["rows"] for each in result["tables"]), "row")
    repaired = f" {counted(result['repaired'], 'row')} repaired." if result.get("repaired") else ""
    aside = [f"{result[name]:,} {word}" for name, word in ASIDE if result.get(name)]
    uncompared = f" Not compared: {', '.join(aside)}; see `replicator quarantine list --all`." if aside else ""
    if result["clean"]:
        return f"[bold green]No divergence in {rows}.[/]{repaired}{uncompared}"
    divergent = sum(each[kind] for each in result["tables"] for kind in DIVERGENT)
    advice = f" {escape(result['advice'])}" if result.get("advice") else ""
    return f"[bold red]Divergence: {divergent:,} of {rows}.[/]{repaired}{advice}{uncompared}"


def moved(name: str, result: Mapping[str, Any]) -> str:
    """What ``cutover`` and ``rollback`` print in the end."""
    waited, attempts = pause(result["write_pause_seconds"]), counted(result["attempts"], "attempt")
    users = ", ".join(map(escape, result.get("dependents", ())))
    stays = f"\n[bold yellow]These go on using the old tables:[/] {users}." if users else ""
    if others := "; ".join(map(escape, result.get("retyped", ()))):
        stays += f"\n[bold yellow]Columns that have another type:[/] {others}. {PREPARED}."
    if not result.get("way_back", True):
        stays += f"\n[bold yellow]{NO_WAY_BACK}.[/]"
    if result["dry_run"]:
        return f"[bold green]The {name} would work:[/] writers waited {waited}, {attempts}; all is as it was.{stays}"
    if result.get("rolling"):
        return (
            f"[bold green]Both schemas take writes:[/] writers waited {waited}, {attempts}, epoch {result['epoch']}. "
            "Next: `replicator cutover --complete`"
        )
    return (
        f"[bold green]The {name} is complete:[/] writers waited {waited}, {attempts}, epoch {result['epoch']}.{stays}"
    )


def finalized(removed: Mapping[str, Any]) -> str:
    """What ``finalize`` prints in the end."""
    slots, guards = counted(len(removed["slots"]), "slot"), counted(len(removed["guards"]), "guard")
    return f"[bold green]The migration is over:[/] {slots} and {guards} removed. Next: `replicator cleanup`"


def aborted(removed: Mapping[str, Any]) -> str:
    """What ``abort`` prints in the end."""
    slots, made = counted(len(removed["slots"]), "slot"), counted(len(removed["objects"]), "object")
    return f"[bold green]The migration is given up:[/] {slots} and {made} of the new schema removed."


def backup_done(made: "Backup") -> str:
    """What ``backup`` prints in the end."""
    rows = sum(made.manifest["rows"].values())
    proof = "restored and counted" if made.manifest["restore_test"]["done"] else "[bold yellow]not restore-tested[/]"
    entered = "" if made.entered else " It is not in the journal: the migration has not begun."
    return (
        f"[bold green]The backup is complete:[/] {counted(len(made.manifest['rows']), 'table')}, "
        f"{counted(rows, 'row')}, {sized(made.bytes)}, {proof}, in {escape(str(made.folder))}.{entered}"
    )


def probes(shown: "Sequence[Probe]") -> RenderableType:
    """One line a probe; below each that is slower, how both sides go about it."""
    compared = any(each.new for each in shown)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("probe")
    for name in ("old ms", "p95", "blocks", *(("new ms", "p95", "blocks", "") if compared else ())):
        grid.add_column(name, justify="right")
    for each in shown:
        sides = [side for side in (each.old, each.new) if side]
        figures = [
            part for side in sides for part in (f"{side.median:.2f}", f"{side.p95:.2f}", f"{side.plan.buffers:,}")
        ]
        verdict = [word("no" if each.slower else "ok")] if compared else []
        grid.add_row(Text(each.name), *figures, *verdict)
    plans = [_plan(side, each) for each in shown if each.slower for side in ("old", "new")]
    return Group(grid, *plans)


def probes_sum(shown: "Sequence[Probe]", file: Path) -> str:
    """The last line of ``baseline``."""
    slower = [each for each in shown if each.slower]
    where = f"Plans and runs are in {escape(str(file))}."
    if slower:
        names = ", ".join(f"{each.name} ({each.new.median / each.old.median:.1f} times)" for each in slower if each.new)
        return (
            f"[bold red]{counted(len(slower), 'query', 'queries')} of {len(shown)} slower:[/] {escape(names)}. {where}"
        )
    verdict = "No query is slower." if any(each.new for each in shown) else f"{counted(len(shown), 'probe')} measured."
    return f"[bold green]{verdict}[/] {where}"


def _figures(measured: "Measured") -> tuple[str, str, str]:
    return f"{measured.median:.2f}", f"{measured.p95:.2f}", f"{measured.plan.buffers:,}"


def _plan(side: str, probe: "Probe") -> Text:
    plan = (probe.old if side == "old" or probe.new is None else probe.new).plan
    return Text(f"  {probe.name}, {side}: {' > '.join(plan.nodes)}; {counted(plan.buffers, 'block')}", style="red")


def journal(entries: "Iterable[Entry]") -> RenderableType:
    """One line an entry: when, who, what, and its details."""
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column()
    for each in entries:
        details = dict(each.details)
        asker = details.pop("by", None)
        when = each.at.astimezone().isoformat(sep=" ", timespec="seconds")
        who = f"{each.who} ({asker})" if asker else each.who
        table.add_row(Text(when, style="dim"), Text(who), Text(each.event, style="bold"), Text(_listed(details)))
    return table


def _listed(details: Mapping[str, Any]) -> str:
    """``command verify, repair true, clean true``: the inner names say enough."""
    parts = []
    for name, value in details.items():
        if isinstance(value, Mapping):
            parts.append(_listed(value))
        elif name == "steps":
            parts.append(_steps(value))
        elif isinstance(value, list):
            parts.append(f"{name} {' '.join(map(str, value))}")
        else:
            parts.append(f"{name} {str(value).lower() if isinstance(value, bool) else value}")
    return ", ".join(part for part in parts if part)


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    """``steps: lock 1.2 ms, drain 40.5 ms``: where the time of a write pause went."""
    told = ", ".join(f"{each['step']} {each['seconds'] * 1e3:.1f} ms" for each in steps)
    return f"steps: {told}" if told else ""


def _compared(tables: Sequence[Mapping[str, Any]]) -> Table:
    counts = [name for name in ("rows", *DIVERGENT) if all(name in each for each in tables)]
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("table")
    for name in counts:
        grid.add_column(name, justify="right")
    for each in tables:
        grid.add_row(Text(each["table"]), *(_amount(name, each[name]) for name in counts))
    return grid


def _amount(name: str, rows: int) -> Text:
    return Text(f"{rows:,}", style="bold red" if rows and name in DIVERGENT else "")


def _example(table: str, example: Mapping[str, Any]) -> Text:
    note = f": {example['note']}" if example.get("note") else ""
    return Text(f"  {example['kind']}: {table} {', '.join(map(str, example['key']))}{note}", style="red")
