"""Two values have one form exactly where SQL takes them for equal: for each type that can be a key, on real values."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
import pytest

from replicator.core.equality import Form
from replicator.core.tables import Column
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.catalog.forms import BUILT_IN, OF_EXTENSIONS
from replicator.postgres.rows.keys import Asked, ask_keys
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.trying.described import describe_query
from tests.engine import execute
from tests.fix_postgres import Database
from tests.keyed import make_nocase
from tests.statements import rows

pytestmark = pytest.mark.two_servers

MANY = 60
"""Values of each type: each is compared with each."""

LETTERS = "aAbB \u00e9\u00c9\u0130\u0131i\u00df\u1e9e\u03c3\u03c2\u03a3\ufb01\u01c4\u01c5e\u0301\U0001f600_%'\\{}\""


@dataclass(frozen=True)
class Kind:
    """A column of one type, and how its values are written at random."""

    type: str
    write: Callable[[random.Random], str]


def number(draw: random.Random) -> str:
    digits = draw.choice(("0", "1", "10", "12", "5", "99"))
    after = draw.choice(("", ".", ".0", ".00", ".5", ".50", ".004", ".005", ".994", ".995"))
    power = draw.choice(("", "", "", "e0", "E+1", "e-2"))
    return draw.choice(("", "-", "+")) + digits + (after if after != "." else "") + power


def real(draw: random.Random) -> str:
    return draw.choice((number(draw), str(draw.random()), "0.1", "0.10000000001", "1e-45", "NaN", "Infinity", "-inf"))


def text(draw: random.Random) -> str:
    return "".join(draw.choices(LETTERS, k=draw.randrange(5)))


def blanks(draw: random.Random) -> str:
    return "".join(draw.choices("ab  ", k=draw.randrange(5)))


def interval(draw: random.Random) -> str:
    months, days, hours = (
        draw.choice((0, 0, 1, -1, 13)),
        draw.choice((0, 1, 30, -29)),
        draw.choice((0, 24, -24, 720, 1)),
    )
    return f"{months} months {days} days {hours}:00:00{draw.choice(('', '.5', '.500'))}"


def moment(draw: random.Random) -> str:
    day = draw.choice(("2026-01-01", "20260101", "2025-12-31", "2026-01-01 BC", "infinity"))
    if "-" not in day and not day.isdigit():
        return day
    time = draw.choice(("", " 00:00", "T00:00:00", " 23:59:59.9999", " 12:00:00.123456", " 12:00:00.1234561"))
    zone = draw.choice(("", "Z", "+00", "+05:45", "-01"))
    era = " BC" if day.endswith("BC") else ""
    return f"{day.removesuffix(' BC')}{time}{zone if time else ''}{era}"


def day(draw: random.Random) -> str:
    return draw.choice(("2026-01-01", "20260101", "Jan 1 2026", "2026-01-02", "infinity", "0044-03-15 BC"))


def network(draw: random.Random) -> str:
    return draw.choice(
        ("10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "10.0.0.1/8", "::1", "0:0::1", "::1/128", "::ffff:1.2.3.4")
    )


def document(draw: random.Random, depth: int = 2) -> str:
    kind = draw.randrange(6 if depth else 4)
    if kind == 4:
        return f"[{', '.join(document(draw, depth - 1) for _ in range(draw.randrange(3)))}]"
    if kind == 5:
        pairs = [(key, document(draw, depth - 1)) for key in draw.sample(["a", "1.0", 'q\\"2.0'], draw.randrange(3))]
        return "{" + draw.choice((",", " , ")).join(f'"{key}":{value}' for key, value in pairs) + "}"
    plain = number(draw).removeprefix("+")
    return draw.choice((plain, f'"{plain}"', '"a\\"1.0 1.00"', '"\\u0041"', '"A"', "true", "null"))


def several(one: Callable[[random.Random], str]) -> Callable[[random.Random], str]:
    return lambda draw: "{" + ",".join(one(draw) for _ in range(draw.randrange(1, 3))) + "}"


def ranging(one: Callable[[random.Random], str]) -> Callable[[random.Random], str]:
    def write(draw: random.Random) -> str:
        bounds = sorted((one(draw), one(draw)), key=float)
        return draw.choice(("[", "(")) + ",".join(bounds) + draw.choice(("]", ")"))

    return write


def whole(draw: random.Random) -> str:
    return draw.choice(("0", "-0", "+1", "1", "001", " 1 ", "-7"))


def short(draw: random.Random) -> str:
    return draw.choice(("1.0", "1.00", "2", "2.5", "2.50"))


KINDS = (
    Kind("integer", whole),
    Kind("bigint", whole),
    Kind("numeric", number),
    Kind("numeric(10,2)", number),
    Kind("numeric(4,0)", number),
    Kind("real", real),
    Kind("double precision", real),
    Kind("boolean", lambda draw: draw.choice(("t", "true", "y", "on", "1", "f", "no", "off", "0", "tru"))),
    Kind("bytea", lambda draw: draw.choice(("\\x61", "a", "\\x6162", "ab", "\\141", "\\x", "\\\\", "\\x5C"))),
    Kind(
        "uuid", lambda draw: draw.choice(("A0EEBC999C0B4EF8BB6D6BB9BD380A11", "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}"))
    ),
    Kind("text", text),
    Kind('text COLLATE "C"', text),
    Kind("character varying(3)", blanks),
    Kind("character(3)", blanks),
    Kind("bpchar", blanks),
    Kind("name", text),
    Kind('"char"', blanks),
    Kind("citext", text),
    Kind("ltree", lambda draw: draw.choice(("a.b", "A.b", "a", "a.b.c", ""))),
    Kind("interval", interval),
    Kind("interval(0)", interval),
    Kind("date", day),
    Kind("timestamp", moment),
    Kind("timestamp(0)", moment),
    Kind("timestamptz", moment),
    Kind("timestamptz(3)", moment),
    Kind("time", lambda draw: draw.choice(("12:00", "12:00:00", "12:00 PM", "24:00", "00:00", "23:59:59.9999999"))),
    Kind("timetz", lambda draw: draw.choice(("12:00+00", "13:00+01", "12:00Z", "24:00+00", "0:00+00"))),
    Kind("inet", network),
    Kind("cidr", lambda draw: draw.choice(("10.0.0.0/8", "10/8", "10.0.0.1", "10.0.0.1/32", "::/0", "0::/0"))),
    Kind(
        "macaddr",
        lambda draw: draw.choice(("08:00:2b:01:02:03", "08-00-2B-01-02-03", "ff:ff:ff:ff:ff:ff")),
    ),
    Kind("money", lambda draw: draw.choice(("1", "1.00", "$1.00", "1.004", "-1", "(1)"))),
    Kind("bit(3)", lambda draw: draw.choice(("101", "b101", "x5", "111"))),
    Kind("varbit", lambda draw: draw.choice(("1", "10", "01", "b1", "x1", ""))),
    Kind("jsonb", document),
    Kind("text[]", several(lambda draw: draw.choice(("a", '"a"', "A", '"a b"', "NULL", '"NULL"')))),
    Kind("integer[]", several(whole)),
    Kind("numeric[]", several(number)),
    Kind("real[]", several(real)),
    Kind("date[]", several(day)),
    Kind("int4range", ranging(lambda draw: draw.choice(("1", "2", "3")))),
    Kind("numrange", ranging(short)),
    Kind("public.mood", lambda draw: draw.choice(("a", "A", "b"))),
    Kind("public.pair", lambda draw: draw.choice(("(1,a)", '(1,"a")', "(01,a)", "(1,)", '(1,"")', "(,)"))),
    Kind("public.shout", text),
    Kind("public.price", number),
)


async def equal_in_sql(opened: Connection, place: int) -> set[tuple[str, str]]:
    """Which written values the column takes for equal, once they are in it."""
    async with opened.transaction():
        await opened.execute("SET LOCAL search_path = pg_catalog, public")  # where an extension's operators are
        cursor = await opened.execute(
            f"SELECT a.written, b.written FROM all_{place} a JOIN all_{place} b ON a.value = b.value".encode()
        )
        return set(await cursor.fetchall())


def pairs(forms: dict[str, str | None]) -> set[tuple[str, str]]:
    return {(one, other) for one in forms for other in forms if forms[one] == forms[other]}


async def written_forms(opened: Connection, column: Column, texts: Sequence[str]) -> dict[str, str | None]:
    asked = await ask_keys(opened, [column], [(each,) for each in texts])
    return {each: asked.of(column, each) for each in texts}


async def printed_forms(
    opened: Connection, text_connection: Connection, column: Column, place: int, like: Column
) -> dict[str, str | None]:
    """Of what a server prints for these values, as the stream brings them."""
    asked = Asked()
    cursor = await text_connection.execute(f"SELECT written, value FROM public.all_{place}".encode())
    found = await cursor.fetchall()
    if like.form.prints_apart:
        await asked.ask(opened, column, [printed for _, printed in found])
    keys = {written: asked.led_to([like.form], [column], [printed]) for written, printed in found}
    return {written: None if key is None else key[0] for written, key in keys.items()}


async def test_one_form_exactly_where_sql_says_equal(database: Database) -> None:
    """By what a transform may write, and by what the server prints; and each form reads as the value that it is of."""
    seed = random.randrange(1 << 30)
    extensions = rows(database.dsn, "SELECT name FROM pg_available_extensions WHERE name IN ('citext', 'ltree')")
    execute(database.dsn, [f"CREATE EXTENSION {name}" for (name,) in extensions])
    if extensions:
        execute(database.dsn, ["CREATE DOMAIN public.shout AS citext CHECK (VALUE IS NOT NULL)"])
    kinds = [kind for kind in KINDS if extensions or kind.type not in {"citext", "ltree", "public.shout"}]
    draw = random.Random(seed)
    execute(
        database.dsn,
        [
            "CREATE TYPE public.mood AS ENUM ('a', 'A', 'b')",
            "CREATE TYPE public.pair AS (one integer, other text)",
            "CREATE DOMAIN public.price AS numeric(10,2)",
            *(f"CREATE TABLE public.all_{n} (written text, value {each.type})" for n, each in enumerate(kinds)),
        ],
    )
    async with connection(database.dsn, "test") as opened, connection(database.dsn, "test", text=True) as texts:
        tables = await read_tables(opened, "public")
        for place, kind in enumerate(kinds):
            column = tables[f"all_{place}"].by_name["value"]
            assert not column.form.problem, kind.type
            values = sorted({kind.write(draw) for _ in range(MANY)})
            forms = await written_forms(opened, column, values)
            written = await insert(opened, place, values)
            forms = {each: form for each, form in forms.items() if each in written}
            equal = await equal_in_sql(opened, place)
            about = f"{kind.type}, seed {seed}"
            assert len(forms) > 1, about
            assert pairs(forms) == equal, about
            printed = await printed_forms(opened, texts, column, place, column)
            assert printed == forms, about
            assert await read_back(opened, place, column, forms) == len(forms), about


async def insert(opened: Connection, place: int, values: Sequence[str]) -> set[str]:
    """Those that the column takes."""
    try:
        async with (
            opened.transaction(),
            opened.cursor() as cursor,
            cursor.copy(f"COPY public.all_{place} (written, value) FROM STDIN".encode()) as copy,
        ):
            for each in values:
                await copy.write_row([each, each])
    except psycopg.DataError:
        middle = len(values) // 2
        if not middle:
            return set()
        return await insert(opened, place, values[:middle]) | await insert(opened, place, values[middle:])
    return set(values)


async def read_back(opened: Connection, place: int, column: Column, forms: dict[str, str | None]) -> int:
    """How many values are found again by their form."""
    async with opened.transaction():
        await opened.execute("SET LOCAL search_path = pg_catalog, public")
        cursor = await opened.execute(
            f"SELECT count(*) FROM all_{place} a JOIN unnest(%s::text[], %s::text[]) AS k(written, form) "
            f"ON a.written = k.written AND a.value = k.form::{column.bare_type}".encode(),
            (list(forms), list(forms.values())),
        )
        (count,) = await cursor.fetchone() or (0,)
        return int(count)


async def test_each_type_is_known_or_refused(database: Database) -> None:
    """No built-in type that an index can hold is forgotten."""
    with_order = (
        "SELECT DISTINCT t.typname::text FROM pg_opclass c JOIN pg_type t ON t.oid = c.opcintype "
        "JOIN pg_am m ON m.oid = c.opcmethod WHERE m.amname = 'btree' AND c.opcdefault AND t.typtype = 'b' "
        "AND t.oid < 10000"
    )
    known = {name for (name,) in rows(database.dsn, with_order)} - {"varchar", "cidr"}
    assert known - set(BUILT_IN) == set()
    assert {name for _, name in OF_EXTENSIONS} <= {kind.type for kind in KINDS}


async def test_a_querys_collation_is_seen(database: Database) -> None:
    if not make_nocase(database):
        pytest.skip("this server has only collations that are deterministic")
    execute(database.dsn, ['CREATE TABLE words (one text COLLATE public.nocase, two text COLLATE "C", n int)'])
    async with connection(database.dsn, "test") as opened:
        found = await describe_query(
            opened,
            "q",
            'SELECT one, two, n, one || two AS both, lower(two) AS low, one COLLATE "C" AS c FROM public.words',
        )
    problems = {each.name: each.form.problem for each in found}
    assert problems == {
        "one": "its collation nocase takes different texts for equal",
        "two": "",
        "n": "",
        "both": "it has no collation, for its parts have several",
        "low": "",
        "c": "",
    }


def test_a_form_of_one_kind() -> None:
    assert Form(family="blanks", length=3).of("a") == "a  "
    assert Form(family="text", length=3).of("abc  ") == "abc"
    assert Form(family="text", length=3).of("abcd") == "abcd"
    assert Form(family="numeric", scale=-2).of("150") == "200"
    with pytest.raises(ValueError, match="no numeric"):
        Form(family="numeric", base="numeric").of("twelve")
