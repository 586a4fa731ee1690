"""Parts of the checks that need no server."""

import json

import pytest

from replicator.postgres.session.server import allow
from replicator.preflight.traced import TracedRow


@pytest.mark.parametrize(
    "present, expected",
    [
        ("pgoutput, test_decoding", "pgoutput, test_decoding, wal2json"),
        ("", "wal2json"),
        ('""', "wal2json"),
        ('"pgoutput, test_decoding, wal2json"', "pgoutput, test_decoding, wal2json"),
        ('pgoutput, "$libdir/odd"', "pgoutput, '$libdir/odd', wal2json"),
        ('"it\'s"', "'it''s', wal2json"),
        ("wal2json, pgoutput", "wal2json, pgoutput"),
    ],
)
def test_the_list_of_plugins_with_one_more(present: str, expected: str) -> None:
    assert allow(present, "wal2json") == expected


@pytest.mark.parametrize(
    "use, read",
    [
        (lambda row: row["a"], "a"),
        (lambda row: row.get("a"), "a"),
        (lambda row: row.get("z"), "z"),
        (lambda row: row.pop("a"), "a"),
        (lambda row: "a" in row, ""),
        (list, ""),
        (lambda row: [row[name] for name in row], "ab"),
        (lambda row: {**row}, "ab"),
        (dict, "ab"),
        (lambda row: row | {"c": 1}, "ab"),
        (lambda row: {"c": 1} | row, "ab"),
        (lambda row: row.copy(), "ab"),
        (lambda row: list(row.values()), "ab"),
        (lambda row: row.items(), "ab"),
        (json.dumps, "ab"),
        (lambda row: "{a}".format(**row), "ab"),
        ("{a}".format_map, "a"),
    ],
)
def test_a_traced_row_notes_what_is_read(use: object, read: str) -> None:
    noted: set[str] = set()
    row = TracedRow({"a": 1, "b": 2}, noted)
    assert callable(use)
    use(row)
    assert noted == set(read)


def test_a_traced_row_can_be_matched() -> None:
    noted: set[str] = set()
    match TracedRow({"a": 1, "b": 2}, noted):
        case {"a": 1}:
            pass
        case _:
            pytest.fail("did not match")
    assert noted == {"a"}
