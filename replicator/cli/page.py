"""The status as a page of at most 80 columns, as one line, and as JSON."""

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from replicator.cli import views
from replicator.cli.reports import Report, as_of_now
from replicator.observe.status import Backfill, StatusDocument, divergent_rows
from replicator.terminal import text

BAR_WIDTH = 24
MOST_BARS = 8
NEXT = "`replicator check`, then `replicator run`"

PHASES = {
    "new": "being set up",
    "backfill": "rows are copied, and changes followed",
    "build": "indexes and constraints are built",
    "follow": "the new tables are kept in step",
    "cutover": "the application is being switched over",
    "rolling": "both schemas take writes, and follow each other",
    "soak": "cut over; the old tables are kept in step",
    "rollback": "the application is being switched back",
    "finalized": "over; the old tables may go",
}


def as_json(report: Report) -> dict[str, Any]:
    """The document's facts, with whether a daemon runs and how old they are; the stream's are the servers' own."""
    facts: dict[str, Any] = dict(as_of_now(report) or {"phase": None})
    if report.live is not None:
        facts["slot_active"] = report.live.active
    return {"daemon_alive": report.alive, "age_seconds": report.age_seconds, **facts, "ready": report.ready}


def line(report: Report) -> str:
    """All that matters in one line, for a log."""
    document = as_of_now(report)
    if document is None:
        return _not_started(report)
    if document["phase"] == "finalized":
        return f"finalized: {PHASES['finalized']}"
    parts = [
        document["phase"],
        f"lag {text.sized(document['lag_bytes'])}",
        f"backfill {_percent(document)}",
        f"divergence {divergent_rows(document)}",
        f"quarantined {_quarantined(document)}",
        f"gates {sum(each['ok'] for each in document['gates'])}/{len(document['gates'])}",
    ]
    return ", ".join([*parts, *(["ready"] if document["ready"] else []), *_in_short(report)])


def whole(report: Report) -> RenderableType:
    """The whole status."""
    document = as_of_now(report)
    if document is None:
        return Text(_not_started(report))
    parts: list[RenderableType] = [_title(document, report), *_daemon(report), Text(), _facts(document)]
    parts += _section("Waiting", _waiting(document)) if document["waiting"] else []
    parts += _section("Backfill", _backfill(document)) if _unfinished(document) else []
    parts += _section("Divergence", _divergence(document)) if divergent_rows(document) else []
    parts += _section("Gates", views.gates(document["gates"])) if document["gates"] else []
    parts += _section("Last errors", _errors(document)) if document["errors"] else []
    return Group(*parts)


def _not_started(report: Report) -> str:
    return "the daemon is starting" if report.alive else f"not started; {NEXT}"


def _section(title: str, body: RenderableType) -> list[RenderableType]:
    return [Text(), Text(title, style="bold"), body]


def _title(document: StatusDocument, report: Report) -> RenderableType:
    phase = document["phase"]
    meaning = PHASES.get(phase)
    if phase != "finalized" and not report.fresh:
        title = Text.assemble((document["migration"], "bold"), "  ", (phase, "bold yellow"))
        title.append(f": {meaning}" if meaning else "")
        title.append(f"; that was {text.lasting(report.age_seconds)} ago, what holds now is not known", "bold yellow")
        return title
    style = "bold green" if document["ready"] or phase == "soak" else "bold cyan"
    title = Text.assemble((document["migration"], "bold"), "  ", (phase, style))
    if meaning:
        title.append(f": {meaning}")
    if document["ready"]:
        title.append("  ready for the cutover", style="bold green")
    return title


def _daemon(report: Report) -> Iterable[RenderableType]:
    document = report.document
    if document is not None and (daemon := document["daemon"]) and report.alive:
        up = text.since(daemon["started_at"])
        yield Text(
            f"daemon {daemon['version']}, process {daemon['pid']} on {daemon['host']}{f', up {up}' if up else ''}",
            style="dim",
        )
    for complaint in _complaint(report):
        yield Text(complaint, style="bold red")


def _in_short(report: Report) -> list[str]:
    """The complaint without how long it has been so: a line is told anew only when it says something else."""
    return ["the daemon does not report"] if report.alive and not report.fresh else _complaint(report)


def _complaint(report: Report) -> list[str]:
    age = text.lasting(report.age_seconds)
    if report.document is not None and report.document["phase"] == "finalized":
        return []  # the daemon has ended, as it should
    if not report.alive:
        return [f"no daemon runs; this report is {age} old"]
    if not report.fresh:
        return [f"the daemon has not reported for {age}"]
    return [f"nobody reads the slot {report.unread}: the daemon connects to it, or cannot"] if report.unread else []


def _waiting(document: StatusDocument) -> RenderableType:
    return Group(
        *(
            Text(
                f"{each['session']}, for {text.lasting(each['seconds'])}: {'; '.join(each['in_the_way'])}", style="red"
            )
            for each in document["waiting"]
        )
    )


def _facts(document: StatusDocument) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("Data", _ownership(document))
    if document["phase"] == "finalized":
        return table
    if document["phase"] in ("soak", "rolling", "rollback"):
        table.add_row("Rollback", _way_back(document))
    table.add_row("Lag", _lag(document))
    table.add_row("Slot", _slot(document))
    moved = document["cutover_write_pause_seconds"] is not None  # what is counted since is what had to be remembered
    if not _unfinished(document) and document["backfill"] and not moved:
        rows = text.counted(sum(each["rows"] for each in document["backfill"]), "row")
        table.add_row("Backfill", Text(f"done: {rows} of {text.counted(len(document['backfill']), 'source')}"))
    table.add_row("Verify", _verify(document))
    table.add_row("Divergence", _count(divergent_rows(document), ""))
    where = ", ".join(f"{each['transform']} {each['rows']:,}" for each in document["quarantined"] if each["rows"])
    quarantined = _count(_quarantined(document), where)
    if discarded := sum(each["rows"] for each in document["discarded"]):
        quarantined.append(f"; {discarded:,} discarded", style="dim")
    table.add_row("Quarantine", quarantined)
    if (seconds := document["cutover_write_pause_seconds"]) is not None:
        table.add_row("Cutover", f"writers waited {text.pause(seconds)}")
    return table


def _ownership(document: StatusDocument) -> Text:
    if document["phase"] == "rolling":
        return Text("both schemas take writes; the old one owns it")
    if document["phase"] == "finalized":
        return Text("the new schema owns it; nothing follows any more")
    followers = {"forward": "new", "reverse": "old"}
    follower = followers[document["direction"]]
    return Text(f"the {document['owner']} schema owns it; the {follower} tables follow")


def _way_back(document: StatusDocument) -> Text:
    """In the words of ``smoke`` and ``rollback``; the gates below say more."""
    found = document["way_back"]
    style = {"open": "green", "waits": "yellow"}.get(found["state"], "bold red")
    return Text(found["state"] if found["state"] != "none" else found["detail"], style=style)


def _lag(document: StatusDocument) -> Text:
    lag = text.sized(document["lag_bytes"])
    if document["lag_bytes"] is not None:
        lag += f", {text.lasting(document['lag_seconds'])}"
    shown = Text(lag)
    if document["applied_lsn"]:
        shown.append(f"  applied {document['applied_lsn']}, received {document['received_lsn']}", style="dim")
    return shown


def _slot(document: StatusDocument) -> Text:
    kept = document["slot_retained_bytes"]
    plugin = f"  plugin {document['plugin']}" if document["plugin"] else ""
    return Text.assemble(text.sized(kept) if kept is None else f"keeps {text.sized(kept)} of WAL", (plugin, "dim"))


def _verify(document: StatusDocument) -> Text:
    verify = document["verify"]
    shown = Text(verify.get("text") or "nothing compared yet")
    shown.append(f"; {text.counted(verify['passes'], 'pass', 'passes')}")
    if verify["unsettled"]:
        shown.append(f", {text.counted(verify['unsettled'], 'key')} changed since")
    if running := verify["running"]:
        shown.append(f"; the next is at {_ratio(running['done'], running['total'])}")
    return shown


def _count(rows: int, where: str) -> Text:
    if not rows:
        return Text("none", style="green")
    return Text(text.counted(rows, "row") + (f": {where}" if where else ""), style="bold red")


def _backfill(document: StatusDocument) -> RenderableType:
    unfinished = sorted((each for each in document["backfill"] if not each["done"]), key=_left, reverse=True)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column(width=BAR_WIDTH)
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    for each in unfinished[:MOST_BARS]:
        total = max(each["expected"], each["rows"])
        bar = ProgressBar(
            total=max(total, 1), completed=each["rows"], width=BAR_WIDTH, complete_style="cyan", finished_style="green"
        )
        table.add_row(Text(each["table"]), bar, _ratio(each["rows"], total), f"{each['rows']:,} of {total:,}")
    return Group(table, Text(", ".join(_backfill_notes(document, len(unfinished))), style="dim"))


def _backfill_notes(document: StatusDocument, unfinished: int) -> Iterable[str]:
    if unfinished > MOST_BARS:
        yield f"{unfinished - MOST_BARS} more to copy"
    yield f"{len(document['backfill']) - unfinished} of {text.counted(len(document['backfill']), 'source')} done"
    if (left := document["backfill_seconds_remaining"]) is not None:
        yield f"about {text.lasting(left)} left"


def _left(source: Backfill) -> int:
    return source["expected"] - source["rows"]


def _divergence(document: StatusDocument) -> RenderableType:
    return views.divergence([each for each in document["divergence"] if _sum(each)])


def _errors(document: StatusDocument) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for each in document["errors"]:
        table.add_row(text.clock(each["at"]), Text(each["kind"]), Text(each["text"]))
    return table


def _unfinished(document: StatusDocument) -> bool:
    return not all(each["done"] for each in document["backfill"])


def _percent(document: StatusDocument) -> str:
    backfill = document["backfill"]
    if not backfill:
        return "not begun"
    if not _unfinished(document):
        return "done"
    return _ratio(sum(each["rows"] for each in backfill), sum(max(each["expected"], each["rows"]) for each in backfill))


def _ratio(done: int, total: int) -> str:
    return f"{min(99, done * 100 // total) if total and done < total else 100 if total else 0} %"


def _quarantined(document: StatusDocument) -> int:
    return sum(each["rows"] for each in document["quarantined"])


def _sum(each: Any) -> int:
    return int(each["missing"] + each["extra"] + each["different"])
