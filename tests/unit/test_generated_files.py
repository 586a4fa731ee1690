"""Generated files: their names, and how it is seen that somebody has edited one."""

from pathlib import Path

import pytest

from replicator.errors import MigrationError
from replicator.postgres.drafts.expressions import in_place_of
from replicator.runbook.generation.files import file_names, is_ours, sealed, was_generated, write


def test_no_two_tables_have_files_of_one_name() -> None:
    found = file_names(["orders", "Orders", "ORDERS!", "../orders", "%", "ß", "order_s"])
    assert found == {
        "orders": "orders", "Orders": "orders_2", "ORDERS!": "orders_3", "../orders": "orders_4", "%": "table",
        "ß": "table_2", "order_s": "order_s",
    }  # fmt: skip


def test_an_edited_file_is_known() -> None:
    made = sealed("new/10_t_tables.sql", "CREATE TABLE t ();\n")
    assert is_ours(made.text)
    for edited in (made.text + "\n", made.text.replace("t ()", "u ()"), made.text.replace("as generated", "as gen")):
        assert (is_ours(edited), was_generated(edited)) == (False, True)
    assert not was_generated("CREATE TABLE t ();\n")


def test_all_are_written_or_none(tmp_path: Path) -> None:
    first, second = sealed("new/1.sql", "SELECT 1;\n"), sealed("cutover/2.sql", "SELECT 2;\n")
    assert write(tmp_path, [first, second]) == (["sql/new/1.sql", "sql/cutover/2.sql"], [])
    assert write(tmp_path, [first, second]) == ([], ["sql/new/1.sql", "sql/cutover/2.sql"])
    (tmp_path / "cutover/2.sql").write_text("-- mine")
    anew = sealed("new/1.sql", "SELECT 3;\n")
    with pytest.raises(MigrationError, match=r"Nothing has been written: sql/cutover/2\.sql would be overwritten"):
        write(tmp_path, [anew, second])
    assert (tmp_path / "new/1.sql").read_text() == first.text
    (tmp_path / "cutover/2.sql").unlink()
    assert write(tmp_path, [anew, second])[0] == ["sql/new/1.sql", "sql/cutover/2.sql"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RANGE (at)", "RANGE (x)"),
        (
            "LIST (\"at\", lower(at), ((at AT TIME ZONE 'at'::text)))",
            "LIST (x, lower(x), ((x AT TIME ZONE 'at'::text)))",
        ),
        ("HASH (t.at, at(1), (1)::at)", "HASH (t.at, at(1), (1)::at)"),
    ],
)
def test_a_column_has_another_name_in_a_partition_key(text: str, expected: str) -> None:
    assert in_place_of(text, "at", "x") == expected
