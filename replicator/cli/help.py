"""The help: typer's own, and below it examples, and for the program as a whole its settings and exit codes."""

from collections.abc import Iterable, Sequence
from inspect import cleandoc
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from replicator.settings import describe_settings

EXAMPLES: dict[str, Sequence[tuple[str, str]]] = {
    "check": [
        ("replicator check", "before the first start, and after each change to a server"),
        ("replicator check --json", "the same for a pipeline; exit code 1 when something fails"),
    ],
    "explain": [
        ("replicator explain", "tables, columns, transforms, and what the cutover will do"),
        ("replicator explain --html", "the same as one page with a drawing: redirect it into a file, for a review"),
        ("replicator explain --mermaid", "the drawing alone, for a pull request"),
    ],
    "try": [
        ("replicator try users 42", "one row of an old table, what becomes of it, and what comes back"),
        ("replicator try line_items 7 3 --json", "a key of two columns; values and all as JSON"),
    ],
    "dry-run": [
        ("replicator dry-run --sample 10000", "the first rows of each source: soon done"),
        ("replicator dry-run", "every row; takes about as long as the backfill"),
    ],
    "schema": [
        ("replicator schema --dry-run", "print what is due, and change nothing"),
        ("replicator schema tables", "create the new tables only"),
        ("replicator schema", "create all that is due; the daemon does the same by itself"),
        ("replicator schema --generate", "write the DDL of the copies in the migration, to be read and edited"),
    ],
    "baseline": [
        ("replicator baseline", "before the migration: the queries in sql/probes/old"),
        ("replicator baseline --compare --runs 50", "before the cutover: exit code 1 when a new query is slower"),
    ],
    "run": [
        ("replicator run", "begin, or go on from where the last run stopped"),
        ("replicator --debug run", "with every step in the log"),
    ],
    "status": [
        ("replicator status --watch", "a live view"),
        ("replicator status --json", "the facts as JSON; .ready is what a pipeline waits for"),
    ],
    "verify": [
        ("replicator verify", "compare every row once, now; exit code 1 when some differ"),
        ("replicator verify --repair", "and derive anew those that differ"),
    ],
    "cutover": [
        ("replicator cutover", "now, or say which gate is not open and exit with 3"),
        ("replicator cutover --wait --timeout 600", "as soon as all gates are open, for ten minutes at most"),
        ("replicator cutover --dry-run", "rehearse it, and see how long writers would wait"),
        ("replicator cutover --at 02:30 --wait", "tonight, from half past two on"),
    ],
    "backup": [
        ("replicator backup --to /backups", "before the first start, and after the cutover"),
        ("replicator backup --no-restore-test", "without restoring it; the manifest says so"),
    ],
    "cleanup": [
        ("replicator cleanup --dry-run", "what would go, and what is in the way"),
        ("replicator cleanup --to /backups", "archive the old tables there, and drop them"),
    ],
    "journal": [
        ("replicator journal --limit 20", "the latest entries"),
        ("replicator journal --json", "all of them, for a report"),
    ],
    "smoke": [
        ("replicator smoke", "right after the cutover; exit code 1 when a check fails"),
    ],
    "rollback": [
        ("replicator rollback --wait", "as soon as all gates are open; what was written since is in the old tables"),
        ("replicator rollback --dry-run", "rehearse it, and see how long writers would wait"),
    ],
    "finalize": [
        ("replicator finalize", "when the soak is over"),
        ("replicator finalize --now --yes", "at once, from a script"),
    ],
    "abort": [
        ("replicator abort", "with the daemon stopped"),
    ],
    "quarantine list": [
        ("replicator quarantine list", "the rows that keep the cutover from happening"),
        ("replicator quarantine list --all --limit 1000 --json", "discarded ones too, as JSON"),
    ],
    "quarantine show": [
        ("replicator quarantine show 7", "all about the entry 7"),
        ("replicator quarantine show customer 42", "all about the row with the key 42"),
    ],
    "quarantine retry": [
        ("replicator quarantine retry all", "after a transform was mended, and the daemon started again"),
        ("replicator quarantine retry --transform customer", "those of one transform"),
        ("replicator quarantine retry 7 8", "two of them, discarded or not"),
    ],
    "quarantine discard": [
        ("replicator quarantine discard 7 --because 'a test account'", "this row need not be in the new table"),
    ],
    "demo": [
        ("replicator demo", "a whole migration under load, in a private Postgres"),
        ("replicator demo --rows 200000 --rate 500", "a bigger and busier one"),
    ],
}

EXIT_CODES = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong use: an option, a setting or the migration's definition"),
    ("3", "not ready: no daemon runs, or a gate of the cutover is not open"),
)


class Command(TyperCommand):
    """A command whose help ends with examples."""

    def get_help_option(self, ctx: Any) -> Any:
        """``--help``, without a type: it takes no value."""
        return _untyped(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        self.help = _unwrapped(self.help or "")
        super().format_help(ctx, formatter)
        _panel("Examples", [_example(*each) for each in EXAMPLES[ctx.command_path.removeprefix("replicator ")]])


class Several(TyperGroup):
    """A command that is several, each with a name of its own."""

    def get_help_option(self, ctx: Any) -> Any:
        """``--help``, without a type: it takes no value."""
        return _untyped(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        self.help = _unwrapped(self.help or "")
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """The program, whose help ends with its settings and exit codes."""

    def get_help_option(self, ctx: Any) -> Any:
        """``--help``, without a type: it takes no value."""
        return _untyped(super().get_help_option(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        super().format_help(ctx, formatter)
        _panel("Settings, from the environment or .env", [_pairs(_setting(*each) for each in describe_settings())])
        _panel("Exit codes", [_pairs(EXIT_CODES)])


def _unwrapped(text: str) -> str:
    """The paragraphs, each on one line: the terminal knows where to break it."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in cleandoc(text).split("\n\n"))


def _untyped(option: Any) -> Any:
    if option is not None:
        option.metavar = ""
    return option


def _panel(title: str, parts: Iterable[Text | Table]) -> None:
    table = Table.grid()
    for part in parts:
        table.add_row(part)
    Console(highlight=False).print(Panel(table, title=title, title_align="left", border_style="dim", box=box.ROUNDED))


def _example(command: str, meaning: str) -> Text:
    return Text.assemble((command, "bold cyan"), "\n", (f"  {meaning}", "dim"))


def _setting(name: str, default: str, meaning: str) -> tuple[str, Text]:
    note = ("[required]", "red") if default == "required" else (f"[default: {default}]", "dim")
    return name, Text(meaning) if default == "-" else Text.assemble(meaning, " ", note)


def _pairs(pairs: Iterable[tuple[str, str | Text]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for name, meaning in pairs:
        table.add_row(name, meaning)
    return table
