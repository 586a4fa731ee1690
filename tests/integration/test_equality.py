"""What SQL takes for equal is one key: in a source, a target, a dependency; or the migration is refused."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from replicator import Lookup, Migration, Query, Row
from replicator.errors import MigrationError
from replicator.pipeline.repair import repair
from replicator.pipeline.setup import read_plan
from replicator.runbook.dry_run import dry_run
from tests.checking import check
from tests.comparing import BEHIND, full_pass
from tests.engine import engine, execute, make_settings
from tests.fix_postgres import Database
from tests.keyed import keyed, make_nocase
from tests.statements import rows

FIXTURES = Path(__file__).parents[1] / "fixtures"


def write_tables(folder: Path, *statements: str) -> None:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(";\n".join(("CREATE SCHEMA IF NOT EXISTS store", *statements)))


Case = TypeVar("Case", bound=tuple[str, ...])


def taken(database: Database, cases: Iterable[Case]) -> dict[str, Case]:
    """Those for which the server has what they need, by the number of their tables."""
    offered = rows(database.dsn, "SELECT name FROM pg_available_extensions WHERE name = 'citext'")
    icu = make_nocase(database)
    lacking = [*([] if offered else ["citext"]), *([] if icu else ["nocase"])]
    if offered:
        execute(database.dsn, ["CREATE EXTENSION citext"])
        execute(database.dsn, ["CREATE DOMAIN public.citext_domain AS citext CHECK (VALUE <> 'nobody')"])
    found = (case for case in cases if not any(each in part for each in lacking for part in case))
    return {str(n): case for n, case in enumerate(found)}


# ---- dependencies


def asking(folder: Path, cases: dict[str, str], rule: Any = ("person",)) -> Migration:
    """What people own, counted by a query; ``owned`` names them by a column of another type, or spells them otherwise.

    :param cases: by the number of their tables, the type of the key.
    """
    write_tables(folder, *(f"CREATE TABLE IF NOT EXISTS store.counts{n} (id {key} PRIMARY KEY, things bigint)"
                           for n, key in cases.items()))  # fmt: skip
    migration = Migration("asking", old="public", new="store", sql=folder)
    for n, key in cases.items():
        equal = "OPERATOR(public.=)" if "citext" in key else "="  # queries too name what is not Postgres' own
        (folder / f"q{n}.sql").write_text(
            f"SELECT p.id, (SELECT count(*) FROM public.owned{n} o WHERE o.person {equal} p.id) AS things "
            f"FROM public.people{n} p"
        )
        query = Query(f"q{n}.sql", key=["id"], depends_on={f"people{n}": ["id"], f"owned{n}": rule})
        migration.transform(source=query, into=f"counts{n}", name=f"counts{n}")(as_it_is)
    return migration


def as_it_is(old: Row) -> dict[str, Any]:
    return dict(old)


def asked_tables(n: str, key: str, column: str) -> list[str]:
    return [
        f"CREATE TABLE people{n} (id {key} PRIMARY KEY)",
        f"CREATE TABLE owned{n} (number integer PRIMARY KEY, person {column})",
        f"ALTER TABLE owned{n} REPLICA IDENTITY FULL",
    ]


DEPENDENCIES = {
    "citext": ("public.citext", "public.citext", "'Bob@x'", "'bob@X'"),
    "blank-padded to text": ("text", "char(8)", "'a'", "'a'"),
    "text to blank-padded": ("char(8)", "text", "'a'", "'a'"),
    "blank-padded, of two lengths": ("char(3)", "char(8)", "'a'", "'a'"),
    "varchar to text": ("text", "varchar(9)", "'a '", "'a '"),
    "numeric to bigint": ("bigint", "numeric(10,2)", "5", "5"),
    "bigint to numeric": ("numeric(10,2)", "bigint", "5", "5"),
    "numeric of two scales": ("numeric", "numeric(10,4)", "1.50", "1.5"),
    "interval": ("interval", "interval", "'1 day'", "'24:00:00'"),
    "jsonb": ("jsonb", "jsonb", "'{\"a\": 1.0}'", "'{\"a\": 1.00}'"),
    "an array of numbers": ("numeric[]", "numeric[]", "'{1.0}'", "'{1.00}'"),
    "timestamp of two precisions": ("timestamptz", "timestamptz(0)", "'2026-01-01 12:00+05:45'", "'2026-01-01 06:15Z'"),
    "bytea": ("bytea", "bytea", "'\\x00ff'", "'\\x00ff'"),
    "a domain": ("integer", "public.small", "5", "5"),
}


@pytest.mark.two_servers
async def test_a_dependency_is_led_by_the_types_own_equality(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, ["CREATE DOMAIN public.small AS bigint CHECK (VALUE < 100)"])
    cases = taken(database, DEPENDENCIES.values())
    for n, (key, column, one, _) in cases.items():
        execute(database.dsn, [*asked_tables(n, key, column), f"INSERT INTO people{n} VALUES ({one})"])
    async with engine(database, asking(tmp_path, {n: case[0] for n, case in cases.items()})) as made:
        await made.backfill()
        for change, expected in (
            ("INSERT INTO owned{n} VALUES (1, {other}), (2, {one}), (3, NULL)", 2),
            ("DELETE FROM owned{n} WHERE number = 2", 1),
            ("UPDATE owned{n} SET person = {other} WHERE number = 3", 2),
            ("UPDATE owned{n} SET person = NULL", 0),
        ):
            changes = {n: change.format(n=n, one=one, other=other) for n, (_, _, one, other) in cases.items()}
            execute(database.dsn, changes.values())
            await made.drain()
            found = {n: rows(database.dsn, f"SELECT things FROM store.counts{n}") for n in cases}
            assert found == {n: [(expected,)] for n in cases}, change
        assert await full_pass(made) == []


REFUSED = {
    "a collation that takes case for nothing": (
        "public.nocase_text",
        "public.nocase_text",
        "nocase takes different texts for equal",
    ),
    "the same in an array": ("public.nocase_text[]", "public.nocase_text[]", "nocase takes different texts for equal"),
    "float to numeric": ("numeric", "float8", "double precision is not numeric"),
    "date to timestamp": ("timestamp", "date", "date is not timestamp"),
    "inet to cidr": ("cidr", "inet", "inet is not cidr"),
    "citext to text": ("text", "public.citext", "citext is not text"),
    "an array of citext": (
        "public.citext[]",
        "public.citext[]",
        "holds parts that are equal though they print otherwise",
    ),
    "an unknown type": ("public.odd", "public.odd", "is not known"),
}
ODD_OPERATORS = {
    "<": ("lt", "text_lt"),
    "<=": ("le", "text_le"),
    "=": ("eq", "texteq"),
    ">=": ("ge", "text_ge"),
    ">": ("gt", "text_gt"),
}
ODD = (
    "CREATE TYPE public.odd",
    "CREATE FUNCTION public.odd_in(cstring) RETURNS public.odd LANGUAGE internal IMMUTABLE STRICT AS 'textin'",
    "CREATE FUNCTION public.odd_out(public.odd) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'",
    "CREATE TYPE public.odd (input = public.odd_in, output = public.odd_out, storage = extended)",
    "CREATE FUNCTION public.odd_cmp(public.odd, public.odd) RETURNS int LANGUAGE internal IMMUTABLE AS 'bttextcmp'",
    *(
        f"CREATE FUNCTION public.odd_{name}(public.odd, public.odd) RETURNS bool LANGUAGE internal IMMUTABLE AS '{by}'"
        for name, by in ODD_OPERATORS.values()
    ),
    *(
        f"CREATE OPERATOR public.{sign} (leftarg = public.odd, rightarg = public.odd, function = public.odd_{name})"
        for sign, (name, _) in ODD_OPERATORS.items()
    ),
    "CREATE OPERATOR CLASS public.odd_ops DEFAULT FOR TYPE public.odd USING btree AS "
    + "".join(f"OPERATOR {number} public.{sign}, " for number, sign in enumerate(ODD_OPERATORS, 1))
    + "FUNCTION 1 public.odd_cmp(public.odd, public.odd)",
)


@pytest.mark.two_servers
async def test_what_nobody_can_tell_is_refused(database: Database, tmp_path: Path) -> None:
    """All at once, by column and type."""
    execute(database.dsn, [*ODD, "CREATE SCHEMA store"])
    cases = taken(database, REFUSED.values())
    migration = asking(tmp_path, {n: key for n, (key, _, _) in cases.items()})
    for n, (key, column, _) in cases.items():
        execute(database.dsn, asked_tables(n, key, column))
        execute(database.dsn, [f"CREATE TABLE store.counts{n} (id {key} PRIMARY KEY, things bigint)"])
        # Whatever operator there is between the types.
        (tmp_path / f"q{n}.sql").write_text(f"SELECT p.id, 1 AS things FROM public.people{n} p, public.owned{n} o")
    with pytest.raises(MigrationError) as refused:
        await read_plan(make_settings(database), migration, "forward")
    for n, (key, column, says) in cases.items():
        at_fault = f"owned{n}.person of type" if key != column else f"the query q{n} has the column id of type"
        assert any(at_fault in each and says in each for each in str(refused.value).split("; transform ")), says


@pytest.mark.one_server
async def test_a_lookups_values_become_keys_of_the_querys_type(database: Database, tmp_path: Path) -> None:
    """Whatever it gives them as; and a NULL leads to no key."""
    execute(
        database.dsn,
        [
            *asked_tables("", "bigint", "numeric(10,2)"),
            "INSERT INTO people VALUES (5), (6)",
        ],
    )
    lookup = Lookup("SELECT person FROM (VALUES (%(person)s::numeric(10,2)), (NULL)) AS changed (person);")
    async with engine(database, asking(tmp_path, {"": "bigint"}, lookup)) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO owned VALUES (1, 5), (2, NULL)"])
        await made.drain()
        execute(database.dsn, ["UPDATE owned SET person = 6 WHERE number = 1"])
        await made.drain()
        assert rows(database.dsn, "SELECT id, things FROM store.counts ORDER BY id") == [(5, 0), (6, 1)]
        assert await full_pass(made) == []


# ---- source keys


SPELLINGS = {
    "citext": ("public.citext", "Bob@x", "bob@X"),
    "interval": ("interval", "1 day", "24:00:00"),
    "numeric": ("numeric", "1.0", "1.00"),
    "jsonb": ("jsonb", '{"a": [1.0]}', '{"a": [1.00]}'),
    "numbers": ("numeric[]", "{1.0,2}", "{1.00,2}"),
    "float": ("float8", "0", "-0"),
    "inet": ("inet", "10.0.0.1", "10.0.0.1"),
    "blank-padded": ("char(4)", "a", "a"),
}


def spelling(folder: Path, cases: dict[str, str]) -> Migration:
    """A table to its like by a computed key and by a remembered one, and through a query."""
    ways = ("computed", "remembered", "asked")
    write_tables(folder, *(f"CREATE TABLE IF NOT EXISTS store.{way}{n} (id {key} PRIMARY KEY, note text)"
                           for way in ways for n, key in cases.items()))  # fmt: skip
    migration = Migration("spelling", old="public", new="store", sql=folder)
    for n in cases:
        (folder / f"q{n}.sql").write_text(f"SELECT id, note FROM public.things{n}")
        query = Query(f"q{n}.sql", key=["id"], depends_on={f"things{n}": ["id"]})
        keyed = lambda old: old["id"]  # noqa: E731
        migration.transform(source=f"things{n}", into=f"computed{n}", key=keyed, name=f"computed{n}")(as_it_is)
        migration.transform(source=f"things{n}", into=f"remembered{n}", name=f"remembered{n}")(as_it_is)
        migration.transform(source=query, into=f"asked{n}", key=keyed, name=f"asked{n}")(as_it_is)
    return migration


@pytest.mark.two_servers
async def test_a_source_key_that_is_spelt_otherwise_is_the_same_row(database: Database, tmp_path: Path) -> None:
    """And shows as it is spelt last: a change of nothing but that is carried over too, and missed by no comparison."""
    cases = taken(database, SPELLINGS.values())
    for n, (key, one, _) in cases.items():
        execute(database.dsn, [f"CREATE TABLE things{n} (id {key} PRIMARY KEY, note text)"])
        execute(database.dsn, [f"INSERT INTO things{n} VALUES ('{one}', 'first')"])

    def alike() -> list[str]:
        return [
            f"{way} {cases[n][0]}"
            for n in cases
            for way in ("computed", "remembered", "asked")
            if rows(database.dsn, f"SELECT id::text, note FROM store.{way}{n}")
            != rows(database.dsn, f"SELECT id::text, note FROM public.things{n}")
        ]

    async with engine(database, spelling(tmp_path, {n: case[0] for n, case in cases.items()})) as made:
        await made.backfill()
        assert alike() == []
        for changes in (
            ["UPDATE things{n} SET id = '{other}', note = 'second'"],
            ["UPDATE things{n} SET id = '{one}'"],
            [
                "UPDATE things{n} SET note = 'third'",
                "DELETE FROM things{n}",
                "INSERT INTO things{n} VALUES ('{other}')",
            ],
            ["DELETE FROM things{n}"],
            ["INSERT INTO things{n} VALUES ('{one}', 'last')"],
        ):
            for change in changes:
                execute(
                    database.dsn, [change.format(n=n, one=one, other=other) for n, (_, one, other) in cases.items()]
                )
            await made.drain()
            assert alike() == [], changes
        assert await full_pass(made) == []
        execute(database.dsn, [BEHIND, *(f"UPDATE store.asked{n} SET id = '{case[2]}'" for n, case in cases.items())])
        assert {each.target for each in await full_pass(made)} == {
            f"asked{n}" for n, (_, one, other) in cases.items() if one != other
        }


# ---- target keys


def entering(folder: Path, cases: dict[str, str]) -> Migration:
    """Texts into keys of other types."""
    write_tables(folder, *(f"CREATE TABLE IF NOT EXISTS store.names{n} (name {key} PRIMARY KEY, number integer)"
                           for n, key in cases.items()))  # fmt: skip
    migration = Migration("entering", old="public", new="store", sql=folder)
    for n in cases:
        migration.transform(source=f"names{n}", into=f"names{n}", name=f"names{n}")(as_it_is)
    return migration


def quarantined(dsn: str) -> list[str]:
    return [error for (error,) in rows(dsn, "SELECT error FROM _replicator.quarantine ORDER BY error")]


def both_named(dsn: str, n: str, one: int, other: int) -> bool:
    found = rows(dsn, f"SELECT error FROM _replicator.quarantine WHERE transform = 'names{n}'")
    return len(found) == 1 and all(
        said in found[0][0] for said in (f"['{one}']", f"['{other}']", "Two source rows produce the same row")
    )


COLLISIONS = {
    "citext": ("public.citext", "Bob@x", "bob@X"),
    "blank-padded": ("char(8)", "a", "a  "),
    "cut": ("varchar(3)", "abc", "abc  "),
    "numeric": ("numeric", "1.0", "1.00"),
    "rounded": ("numeric(10,2)", "1.004", "1"),
    "rounded to hundreds": ("numeric(10,-2)", "149", "100"),
    "float": ("float8", "0", "-0"),
    "short float": ("real", "0.1", "0.10000000001"),
    "date": ("date", "2026-01-01", "20260101"),
    "timestamp": ("timestamptz", "2026-01-01T00:00:00Z", "2026-01-01 05:45+05:45"),
    "rounded time": ("timestamp(0)", "2026-01-01 00:00:00.1", "2026-01-01 00:00:00.2"),
    "interval": ("interval", "1 day", "24:00:00"),
    "inet": ("inet", "10.0.0.1", "10.0.0.1/32"),
    "uuid": ("uuid", "A0EEBC999C0B4EF8BB6D6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "bytea": ("bytea", "a", "\\x61"),
    "boolean": ("boolean", "y", "on"),
    "jsonb": ("jsonb", '{"a": 1.0, "b": 2}', '{"b":2,"a":1.00}'),
    "an array": ("text[]", "{a}", '{"a"}'),
    "a range": ("int4range", "[1,2]", "[1,3)"),
    "a domain": ("public.citext_domain", "Bob", "BOB"),
}


@pytest.mark.two_servers
async def test_two_rows_for_one_target_key_are_both_named(database: Database, tmp_path: Path) -> None:
    """In a chunk, in one statement of the stream, and one after the other."""
    cases = taken(database, COLLISIONS.values())

    def insert(n: str, number: int) -> str:
        _, one, other = cases[n]
        return f"INSERT INTO names{n} VALUES ('{one}', {number}), ('{other}', {number + 1})"

    for n in cases:
        execute(database.dsn, [f"CREATE TABLE names{n} (name text, number integer PRIMARY KEY)", insert(n, 101)])

    def one_row_each() -> bool:
        return all(rows(database.dsn, f"SELECT count(*) FROM store.names{n}") == [(1,)] for n in cases)

    async with engine(database, entering(tmp_path, {n: case[0] for n, case in cases.items()})) as made:
        await made.backfill()
        assert [n for n in cases if not both_named(database.dsn, n, 101, 102)] == []
        assert one_row_each()
        execute(database.dsn, [f"DELETE FROM names{n}" for n in cases])
        await made.drain()
        assert quarantined(database.dsn) == []
        execute(database.dsn, [insert(n, 103) for n in cases])
        await made.drain()
        assert [n for n in cases if not both_named(database.dsn, n, 103, 104)] == []
        execute(database.dsn, [f"TRUNCATE names{n}" for n in cases])
        await made.drain()
        for place, number in ((1, 105), (2, 106)):
            execute(
                database.dsn, [f"INSERT INTO names{n} VALUES ('{case[place]}', {number})" for n, case in cases.items()]
            )
            await made.drain()
        assert one_row_each()
        notes = {each.target: each.note for each in await full_pass(made) if each.note}
        assert [n for n in cases if not {"['105']", "['106']"} <= set(re.findall(r"\[.*?\]", notes[f"names{n}"]))] == []


# ---- NULL, and long keys


def owners(folder: Path, query: str) -> Migration:
    """People by what they own, with or without anything."""
    write_tables(folder, "CREATE TABLE IF NOT EXISTS store.counts (id integer PRIMARY KEY, things bigint)")
    migration = Migration("owners", old="public", new="store", sql=folder)
    (folder / "owners.sql").write_text(query)
    source = Query("owners.sql", key=["id"], depends_on={"owned": ["person"]})
    migration.transform(source=source, into="counts", name="counts")(as_it_is)
    return migration


WITH_NULLS = "SELECT person AS id, count(*) AS things FROM public.owned GROUP BY person"


@pytest.mark.one_server
async def test_a_null_in_a_querys_key_leads_to_no_row(database: Database, tmp_path: Path) -> None:
    """It is said by check, by the dry run and by verification, which does not come out clean; nothing dies of it."""
    execute(
        database.dsn,
        [
            "CREATE TABLE owned (number integer PRIMARY KEY, person integer)",
            "ALTER TABLE owned REPLICA IDENTITY FULL",
            "INSERT INTO owned SELECT n, CASE WHEN n > 3 THEN n / 2 END FROM generate_series(1, 300) n",
        ],
    )
    migration = owners(tmp_path, WITH_NULLS)
    says = "The query owners returns rows with a NULL in their key (id)"
    found = await check(database, migration)
    assert says in found["forward.sample"].detail
    assert found["forward.sample"].outcome == "fail"
    tried = await dry_run(make_settings(database), migration, None, lambda *_: None)
    assert not tried.ok
    assert tried.keyless == {"owners": f"{says}: no row comes of them. There are 1."}
    async with engine(database, migration) as made:
        await made.backfill()
        execute(database.dsn, ["UPDATE owned SET person = NULL WHERE number < 50"])
        await made.drain()
        assert rows(database.dsn, "SELECT min(id) FROM store.counts") == [(25,)]
        (keyless,) = await full_pass(made)
        assert (keyless.kind, keyless.key, keyless.note) == ("missing", (), f"{says}: no row comes of them")
        execute(database.dsn, ["UPDATE owned SET person = 7 WHERE person IS NULL"])
        await made.drain()
        assert await full_pass(made) == []
    (tmp_path / "owners.sql").write_text(f"{WITH_NULLS} HAVING person IS NOT NULL")
    assert (await check(database, migration))["forward.sample"].outcome == "pass"


@pytest.mark.one_server
async def test_keys_as_long_as_an_index_takes(database: Database, tmp_path: Path) -> None:
    """Ours holds two of them; and what is noted of one is told from what is noted of another."""
    execute(database.dsn, ['CREATE TABLE things (id text COLLATE "C" PRIMARY KEY, note text)'])

    def insert(*names: str) -> str:
        texts = (
            "SELECT string_agg(md5($1 || n), '') FROM generate_series(1, 81) n"  # 2,592 characters, not to be packed
        )
        return ";".join(f"INSERT INTO things VALUES (({texts.replace('$1', repr(each))}), '{each}')" for each in names)

    def raising(old: Row) -> dict[str, Any]:
        if old["note"] == "bad":
            raise LookupError
        return dict(old)

    migration = keyed(tmp_path, "text")
    write_tables(tmp_path, *(f"CREATE TABLE IF NOT EXISTS store.{each} (id text PRIMARY KEY, note text)"
                             for each in ("computed", "remembered", "asked", "raising")))  # fmt: skip
    migration.transform(source="things", into="raising", name="raising")(raising)
    tables = ("computed", "remembered", "asked", "raising")
    async with engine(database, migration) as made:
        execute(database.dsn, [insert("a", "b", "bad")])
        await made.backfill()
        execute(database.dsn, [insert("c"), "UPDATE things SET note = 'bad' WHERE note = 'b'"])
        await made.drain()
        assert rows(database.dsn, "SELECT count(*), count(DISTINCT source_key) FROM _replicator.quarantine") == [(2, 2)]
        execute(database.dsn, ["UPDATE things SET note = 'good' WHERE note = 'bad'"])
        await made.drain()
        assert quarantined(database.dsn) == []
        execute(database.dsn, ["DELETE FROM things WHERE note <> 'c'"])
        await made.drain()
        for table in tables:
            assert rows(database.dsn, f"SELECT note FROM store.{table}") == [("c",)], table
        assert rows(database.dsn, "SELECT count(*) FROM _replicator.produced") == [(3,)]
        assert await full_pass(made) == []


# ---- columns that are left out


def leaving_out(folder: Path) -> Migration:
    """A row of the new table has what the old one says, and for what it does not say, nothing."""
    write_tables(
        folder,
        "CREATE TABLE IF NOT EXISTS store.things (id integer PRIMARY KEY, note text DEFAULT 'none, ' || 'yet', "
        "size numeric(10,2) DEFAULT 0, tag text, of public.five, never text DEFAULT 'never', "
        "at timestamptz DEFAULT now(), number integer GENERATED BY DEFAULT AS IDENTITY)",
    )
    migration = Migration("leaving", old="public", new="store", sql=folder)

    @migration.transform(source="things", into="things", key=lambda old: old["id"])
    def thing(old: Row) -> dict[str, Any]:
        row = {"id": old["id"]}
        if old["note"] is not None:
            row |= {"note": old["note"], "size": 9, "tag": "t", "of": 7}
        if old["at"] is not None:
            row |= {"at": old["at"], "number": 9}
        return row

    return migration


@pytest.mark.one_server
async def test_a_column_that_is_left_out_is_its_default_again(database: Database, tmp_path: Path) -> None:
    execute(
        database.dsn,
        [
            "CREATE DOMAIN public.five AS integer DEFAULT 5",
            "CREATE TABLE things (id integer PRIMARY KEY, note text, at timestamptz)",
            "INSERT INTO things VALUES (1, 'a'), (2, NULL)",
        ],
    )
    asked = "SELECT note, size::text, tag, of FROM store.things WHERE id = "
    given, default = [("a", "9.00", "t", 7)], [("none, yet", "0.00", None, 5)]
    async with engine(database, leaving_out(tmp_path)) as made:
        await made.backfill()
        assert (rows(database.dsn, f"{asked}1"), rows(database.dsn, f"{asked}2")) == (given, default)
        execute(database.dsn, ["UPDATE things SET note = NULL"])
        await made.drain()
        assert rows(database.dsn, f"{asked}1") == default
        assert await full_pass(made) == []
        execute(
            database.dsn,
            [
                BEHIND,
                "UPDATE store.things SET note = 'x', size = 3 WHERE id = 2",
                "UPDATE store.things SET never = 'mine', number = 77",
            ],
        )
        found = await full_pass(made)
        assert [(each.key, set(each.columns)) for each in found] == [(("2",), {"note", "size"})]
        assert await made.within(repair(made.running, found, "test")) == 1
        assert rows(database.dsn, f"{asked}2") == default
        execute(database.dsn, ["UPDATE things SET note = 'a' WHERE id = 2"])
        await made.drain()
        await made.stop()
        await made.start()  # nothing gives it now but what was there before
        execute(database.dsn, ["UPDATE things SET note = NULL WHERE id = 2"])
        await made.drain()
        assert rows(database.dsn, f"{asked}2") == default
        assert rows(database.dsn, "SELECT DISTINCT never, number FROM store.things") == [("mine", 77)]
        assert await full_pass(made) == []


@pytest.mark.one_server
async def test_a_default_that_is_another_each_time_is_no_value(database: Database, tmp_path: Path) -> None:
    """Given for some rows, and left out for others: nobody could say what should be there."""
    execute(
        database.dsn,
        [
            "CREATE DOMAIN public.five AS integer DEFAULT 5",
            "CREATE TABLE things (id integer PRIMARY KEY, note text, at timestamptz)",
            "INSERT INTO things VALUES (1, 'a', '2026-01-01'), (2, NULL, '2026-01-01'), (3, 'c', '2026-01-01')",
        ],
    )
    async with engine(database, leaving_out(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["UPDATE things SET at = NULL WHERE id < 3"])
        await made.drain()
        errors = " ".join(quarantined(database.dsn))
        for number in (1, 2):
            assert f"leaves at, number of store.things out for ['{number}'], which other rows are given" in errors
        assert "Give it always, or never." in errors
        execute(database.dsn, ["UPDATE things SET at = '2026-01-02'"])
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await full_pass(made) == []
