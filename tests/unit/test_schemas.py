"""Which of our two schemas what is in: the tables are where only the daemon may name them."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CONTROL: Final = (ROOT / "replicator" / "postgres" / "control" / "control.sql").read_text()
MADE: Final = re.compile(
    r"^\s*CREATE (?:OR REPLACE )?(TABLE|VIEW|FUNCTION) (?:IF NOT EXISTS )?(\w+)\.(\w+)", re.MULTILINE
)
OLDER: Final = ("upgrading.py", "test_upgrade.py", "control_before_forms.sql", "control_in_one_schema.sql")
"""These know where the tables once were."""


def test_only_what_the_application_calls_is_where_it_can_be_named() -> None:
    assert {(kind, name) for kind, schema, name in MADE.findall(CONTROL) if schema != "_replicator"} == {
        ("FUNCTION", "active_schema"), ("FUNCTION", "use_new_schema"),
    }  # fmt: skip


def test_no_sql_looks_for_the_tables_elsewhere() -> None:
    private = "|".join(name for _, schema, name in MADE.findall(CONTROL) if schema == "_replicator")
    wrong = re.compile(rf"(?<![\w.])replicator\.({private})\b(?![.:\"'])")
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for folder in ("replicator", "tests", "deploy")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".py", ".sql", ".md", ".sh"} and file.name not in OLDER
        for line in file.read_text(encoding="utf-8").splitlines()
        if not re.match(r"\s*(from|import) ", line) and wrong.search(line)
    ]
    assert found == []
