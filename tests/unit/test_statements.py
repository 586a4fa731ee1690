"""SQL files are taken apart as psql would."""

import pytest

from replicator.postgres.ddl.statements import shortened, split


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ; ;\n-- nothing\n/* nothing */;", []),
        ("SELECT 1;SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';', 'it''s;'; SELECT 2", ["SELECT ';', 'it''s;'", "SELECT 2"]),
        (r"SELECT 'a\'; SELECT 2", [r"SELECT 'a\'", "SELECT 2"]),
        (r"SELECT E'a\';', e'\\'; SELECT 2", [r"SELECT E'a\';', e'\\'", "SELECT 2"]),
        (
            "SELECT E'a' -- one\n  -- two\n 'b\\';' || 'c\\'; SELECT 2",
            ["SELECT E'a' -- one\n  -- two\n 'b\\';' || 'c\\'", "SELECT 2"],
        ),
        (r'SELECT "a\"; SELECT "b"";--"', [r'SELECT "a\"', 'SELECT "b"";--"']),
        ("SELECT 1 -- one; it's\n, 2", ["SELECT 1  \n, 2"]),
        ("SELECT 1 /* a; /* 'b */ c; */ + 2; SELECT 3", ["SELECT 1   + 2", "SELECT 3"]),
        ("SELECT 1 /* never ends; SELECT 2", ["SELECT 1"]),
        ("DO $$ BEGIN; -- kept\nEND $$; SELECT 2", ["DO $$ BEGIN; -- kept\nEND $$", "SELECT 2"]),
        ("DO $a$ $b$ ; $$ ; $a$; SELECT $1", ["DO $a$ $b$ ; $$ ; $a$", "SELECT $1"]),
        ("SELECT a$b$ FROM c; SELECT d$b$", ["SELECT a$b$ FROM c", "SELECT d$b$"]),
        (
            "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM u; DELETE FROM v); SELECT 1",
            ["CREATE RULE r AS ON INSERT TO t DO (DELETE FROM u; DELETE FROM v)", "SELECT 1"],
        ),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3",
            [
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
                "SELECT 3",
            ],
        ),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end, a.case, 2 AS case; SELECT 2; END; SELECT 3",
            [
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end, a.case, 2 AS case; SELECT 2; END",
                "SELECT 3",
            ],
        ),
        ("BEGIN; SELECT CASE WHEN true THEN 1 END; END", ["BEGIN", "SELECT CASE WHEN true THEN 1 END", "END"]),
        ('CREATE TABLE "ü; x" (é text); SELECT 1', ['CREATE TABLE "ü; x" (é text)', "SELECT 1"]),
    ],
)
def test_statements(text: str, statements: list[str]) -> None:
    assert split(text) == statements


def test_a_long_statement_ends_with_a_whole_word() -> None:
    assert shortened("SELECT 1,\n    2") == "SELECT 1, 2"
    assert shortened("CREATE INDEX names_idx ON names (name)", 30) == "CREATE INDEX names_idx ON …"


def test_a_long_line_of_dashes_takes_no_time() -> None:
    assert split("SELECT E'a' " + "-" * 20_000 + "x; SELECT 2") == ["SELECT E'a'"]


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        # With standard_conforming_strings off, the string would go on.
        (r"SELECT 'a'; SELECT '", [r"SELECT 'a'", "SELECT '"]),
        # Commands and variables of psql, and data for COPY, are taken for SQL.
        ("SELECT 1 \\gset\nSELECT :'name'; SELECT 2", ["SELECT 1 \\gset\nSELECT :'name'", "SELECT 2"]),
        ("COPY t FROM stdin;\n1;2\n\\.\n", ["COPY t FROM stdin", "1", "2\n\\."]),
        # As for psql, END ends a body even where it is the name of a column, without AS.
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 end; SELECT 2; END",
            ["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 end", "SELECT 2", "END"],
        ),
    ],
)
def test_what_is_not_understood(text: str, statements: list[str]) -> None:
    assert split(text) == statements
