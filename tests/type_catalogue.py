"""Every type that a column can have, with values that are hard on those who carry them: data for ``test_types``.

Values are what Postgres reads: the text between the quotes of a literal, not yet doubled.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from psycopg import sql


@dataclass(frozen=True, kw_only=True)
class Case:
    """One type. Tests take it plain, in arrays, under domains, and those in each other: see ``shaped``."""

    name: str
    values: tuple[str, ...]
    """At least two, the first two different."""
    type: str = ""
    """As SQL writes it; by default the name."""
    create: str = ""
    """What makes the type, which it calls ``@``."""
    later: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """From which Postgres version on there are more values, and those."""
    since: int = 14
    extension: str = ""
    """Taken only where the server has this extension."""
    needs: str = ""
    """Taken only where the server can run this expression."""
    delimiter: str = ","
    """Between the elements of an array."""

    @property
    def sql(self) -> str:
        """The type, as SQL writes it."""
        return self.type or self.name

    def on(self, version: int) -> "Case":
        """With the values that this version of Postgres knows."""
        more = [value for first, values in self.later.items() if version >= first for value in values]
        return replace(self, values=(*self.values, *more))


AWKWARD = (
    "plain",
    "",
    " leading, trailing ",
    'it\'s "quoted" and \\back\\slashed\\',
    "\\N",
    "\\.",
    "NULL",
    "{a,b}",
    "tab\there, line\nbreak, return\rand\r\nboth",
    "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "\ufeffbyte order mark, \uffff, \ufffd, \u2028, \u2029, nbsp\u00a0",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0010ffff",
    "e\u0301 \u00e9 a\u0328\u0301 \u1e9e \u0130i\u0131",
    "\u05e9\u05dc\u05d5\u05dd \u202eright to left\u202c \u0645\u0631\u062d\u0628\u0627",
    "%s %(name)s {} {{}} $1 :name ? ; -- /* */ \\u0041 \\x41 &amp; <b>",
    "\u65e5\u672c\u8a9e " * 300,
)
LONG_NUMBER = "1234567890" * 5 + "." + "0987654321" * 5
BYTES = "\\x" + bytes(range(256)).hex()


def composite(*fields: str | None) -> str:
    """The text of a row."""
    quoted = ("" if each is None else '"' + each.replace("\\", "\\\\").replace('"', '""') + '"' for each in fields)
    return "(" + ",".join(quoted) + ")"


def array(items: Sequence[str | None], delimiter: str = ",") -> str:
    """The text of an array of one dimension."""
    return "{" + delimiter.join(map(_item, items)) + "}"


def _item(item: str | None) -> str:
    return "NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


NUMBERS = (
    Case(
        name="float4",
        values=(
            *("0", "-0", "0.1", "1e-45", "-1.1754944e-38", "3.4028235e+38", "16777216", "1e-05"),
            *("NaN", "Infinity", "-Infinity"),
        ),
    ),
    Case(
        name="float8",
        values=(
            *("0", "-0", "0.1", "0.30000000000000004", "5e-324", "-2.2250738585072014e-308", "1.7976931348623157e+308"),
            *("1e15", "1e16", "123456789012345678", "0.0001", "0.00001", "NaN", "Infinity", "-Infinity"),
        ),
    ),
    Case(
        name="numeric",
        values=(
            *("0", "0.00", LONG_NUMBER, f"-{LONG_NUMBER}", "1e-7", "0.0000000", "1.10", "100", "1e40", "1e-16383"),
            *("1e131071", "NaN", "Infinity", "-Infinity"),
        ),
    ),
    Case(name="numeric(12,3)", values=("0", "-123456789.987", "1.5", "NaN")),
    Case(name="numeric(5,-3)", values=("12345678", "-99999000", "0", "NaN"), since=15),
    Case(name="numeric(3,7)", values=("0.0000123", "0", "-0.0000999"), since=15),
)
"""Those that wal2json before 2.6 prints as null where they are no numbers: such rows are read again."""

OTHERS = (
    # ---- numbers
    Case(name="bool", values=("t", "f")),
    Case(name="int2", values=("-32768", "32767", "0")),
    Case(name="int4", values=("-2147483648", "2147483647", "0")),
    Case(name="int8", values=("-9223372036854775808", "9223372036854775807", "0")),
    Case(name="money", values=("-92233720368547758.08", "92233720368547758.07", "0", "1234.5")),
    Case(name="oid", values=("4294967295", "0", "2147483648")),
    Case(name="xid", values=("4294967295", "3")),
    Case(name="xid8", values=("18446744073709551615", "0")),
    Case(name="cid", values=("4294967295", "1")),
    Case(name="tid", values=("(4294967295,65535)", "(0,0)")),
    Case(name="pg_lsn", values=("FFFFFFFF/FFFFFFFF", "0/0", "16/B374D848")),
    Case(name="txid_snapshot", values=("10:20:10,14,15", "1:1:", "9223372036854775806:9223372036854775807:")),
    Case(name="pg_snapshot", values=("10:20:10,14,15", "1:1:")),
    Case(name="oidvector", values=("1 4294967295 3", "0", "")),
    Case(name="int2vector", values=("1 -32768 32767", "0", "")),
    # ---- text
    Case(name="text", values=AWKWARD),
    Case(name="varchar", values=AWKWARD),
    Case(name="varchar(7)", values=("ab  ", "\U0001f600\u00e9\"'\\,{", "")),
    Case(name="char(9)", values=("ab", "  ab", "", "a\\b\t\u00e9")),
    Case(name="bpchar", values=("ab  ", "  ", "ab", "")),
    Case(name='"char"', values=("a", "", "'", "\\", '"', " ", "\x01"), later={16: ("\\377", "\\200")}),
    Case(name="name", values=('Odd "name", it\'s \\ %', "n" * 63, "", "\u00e9" * 31)),
    Case(name="refcursor", values=('an "odd" cursor', "c", "")),
    Case(name="citext", values=AWKWARD, extension="citext"),
    Case(name="xml", needs="'<a/>'::xml", values=("<a b='1'>\n &amp; \u00e9<![CDATA[ x ]]></a>", "", "two <i/> parts")),
    # ---- bytes and bits
    Case(name="bytea", values=("\\x", "\\x00", BYTES, "\\x5c78", "\\x27225c2c7b7d", "\\x" + "c3a9" * 900)),
    Case(name="bit", values=("0", "1")),
    Case(name="bit(11)", values=("01010101010", "11111111111")),
    Case(name="varbit", values=("1", "", "0" * 100 + "1")),
    Case(name="varbit(9)", values=("010", "", "111111111")),
    # ---- dates and times
    Case(
        name="date",
        values=("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29", "0001-01-01", "10000-01-01"),
    ),
    Case(name="time", values=("24:00:00", "00:00:00", "23:59:59.999999")),
    Case(name="time(2)", values=("24:00:00", "12:34:56.78")),
    Case(
        name="timetz", values=("24:00:00+15:59:59", "00:00:00-15:59:59", "12:34:56.789+05:45", "01:02:03.000001-03:30")
    ),
    Case(
        name="timestamp",
        values=(
            *("infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"),
            *("0044-03-15 12:00:00.1 BC", "2026-03-29 02:30:00"),
        ),
    ),
    Case(name="timestamp(0)", values=("2026-01-01 00:00:00", "0001-12-31 23:59:59 BC")),
    Case(
        name="timestamptz",
        values=(
            *("infinity", "-infinity", "4713-01-02 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"),
            *("2026-01-01 00:00:00.123456+05:45", "1880-01-01 00:00:00 Europe/Berlin", "2026-10-25 02:30:00 CEST"),
        ),
    ),
    Case(
        name="interval",
        values=(
            *("1 mon -1 day 00:00:01.000001", "-1 years 2 mons -3 days +04:05:06", "0", "178000000 years"),
            *("-178000000 years", "@ 1 day ago", "00:00:00.5"),
        ),
        later={15: ("2147483647 days -2562047788:00:54.775807",), 17: ("infinity", "-infinity")},
    ),
    Case(name="interval day to second(3)", values=("3 04:05:06.789", "-1 day")),
    # ---- shapes
    Case(name="point", values=("(1e-300,-0)", "(Infinity,NaN)", "(0.1,0.30000000000000004)")),
    Case(name="line", values=("{1,-1,0}", "{0.1,0,-1e+300}")),
    Case(name="lseg", values=("[(0,0),(1.5,-2e-10)]", "[(1,1),(1,1)]")),
    Case(name="box", values=("(2,2),(1,1)", "(Infinity,0),(-Infinity,-0)"), delimiter=";"),
    Case(name="path", values=("[(0,0),(1,1),(2,0)]", "((0,0),(1,1),(2,0.1))")),
    Case(name="polygon", values=("((0,0),(1,1),(2,0))", "((0.1,1e-05))")),
    Case(name="circle", values=("<(0.1,-0),3>", "<(1,2),0>")),
    # ---- the network
    Case(name="inet", values=("10.0.0.1/8", "::1", "2001:db8::ff00:42:8329/64", "0.0.0.0/0", "::ffff:1.2.3.4/128")),
    Case(name="cidr", values=("10.0.0.0/8", "2001:db8::/32", "::/0")),
    Case(name="macaddr", values=("08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff")),
    Case(name="macaddr8", values=("08:00:2b:01:02:03:04:05", "ff:ff:ff:ff:ff:ff:ff:ff")),
    # ---- documents
    Case(name="uuid", values=("00000000-0000-0000-0000-00000000000A", "ffffffff-ffff-ffff-ffff-ffffffffffff")),
    Case(
        name="json",
        values=(
            '{"a":1, "a" : 2,\n\t"b":[ 1 ,2.50, 1E400,-0 ] }',
            " null ",
            '"\\u0000 \\ud800 \\u00e9 \\\\ \\" \\/"',
            '"\u00e9 \U0001f600 \ufffe"',
            "123456789012345678901234567890.10",
            "{}",
        ),
    ),
    Case(
        name="jsonb",
        values=(
            '{"b": 1.10, "a": 1e400, "": null, "long": ' + LONG_NUMBER + "}",
            "null",
            '"\\u00e9 \\ud83d\\ude00 \\u0001 \\t \\\\ \\" \\/ \\u2028"',
            '[[], {}, -0, 0.00, true, "it\'s"]',
            '{"k": "' + "v \u65e5\u672c " * 400 + '"}',
        ),
    ),
    Case(
        name="jsonpath",
        values=(
            '$."odd \\"key\\n"[*] ? (@.b > 1e-3 && @.c like_regex "^\\\\d" flag "i")',
            "strict $",
            "$.a[0 to last]",
        ),
    ),
    Case(name="tsvector", values=("'a':1A,2B,16383C 'it''s':3 'back\\\\slash' 'x y'", "", "'z\u00e9':5 '\"q\"':6")),
    Case(name="tsquery", values=("'a' & !( 'b':*AB <-> 'c d' ) | 'it''s' <3> '\\\\'", "", "!!'x'")),
    Case(name="hstore", values=('"a"=>NULL, "b,"=>"it\'s \\"x\\" \\\\", ""=>""', ""), extension="hstore"),
    Case(name="ltree", values=("a.b_1.c", ""), extension="ltree"),
    # ---- names of things
    Case(name="regclass", values=("pg_class", "-", 'public."Odd, ""table"""', "4294967295")),
    Case(name="regcollation", values=('"C"', "-", '"POSIX"')),
    Case(name="regconfig", values=("english", "simple", "-")),
    Case(name="regdictionary", values=("english_stem", "simple", "-")),
    Case(name="regnamespace", values=("pg_catalog", '"Odd, schema"', "-")),
    Case(name="regoper", values=("||/", "0", "4294967295")),
    Case(name="regoperator", values=("+(integer,integer)", "-(NONE,bigint)", "0")),
    Case(name="regproc", values=("now", "-", "pg_catalog.pg_sleep")),
    Case(name="regprocedure", values=("sum(integer)", "now()", "-")),
    Case(name="regrole", values=("pg_monitor", "-")),
    Case(name="regtype", values=('"char"', "timestamp with time zone[]", "-", 'public."Mood of ""Day"", it\'s"')),
    Case(name="aclitem", values=("pg_monitor=arw*/pg_read_all_data", "=r/pg_monitor")),
    # ---- ranges
    Case(name="int4range", values=("[-2147483648,2147483647)", "empty", "(,)", "[1,)")),
    Case(name="int8range", values=("[1,9223372036854775807)", "empty", "(,5)")),
    Case(name="numrange", values=(f"[-{LONG_NUMBER},{LONG_NUMBER}]", "empty", "(1.10,Infinity)", "[0,NaN]")),
    Case(name="daterange", values=("[0044-03-15 BC,infinity)", "empty", "(,2026-01-01)")),
    Case(name="tsrange", values=('["0044-03-15 12:00:00.1 BC",infinity]', "empty", "[2026-01-01,2026-01-02)")),
    Case(name="tstzrange", values=('("2026-01-01 00:00:00+05:45",)', "empty", "[-infinity,infinity]")),
    Case(name="int4multirange", values=("{[1,3),[5,)}", "{}", "{(,)}")),
    Case(name="int8multirange", values=("{[1,3),[5,9223372036854775807)}", "{}")),
    Case(name="nummultirange", values=(f"{{[1.10,2),({LONG_NUMBER},Infinity]}}", "{}")),
    Case(name="datemultirange", values=("{[0044-03-15 BC,2000-01-01),[2026-01-01,infinity)}", "{}")),
    Case(name="tsmultirange", values=('{["0044-03-15 12:00:00.1 BC","2000-01-01 00:00:00"],(2026-01-01,)}', "{}")),
    Case(name="tstzmultirange", values=('{["2026-01-01 00:00:00+05:45",infinity]}', "{}")),
    # ---- made by users
    Case(
        name="enum",
        type='public."Mood of ""Day"", it\'s"',
        create="CREATE TYPE @ AS ENUM ('it''s', 'a,b', 'x\"y\\z', '', '{NULL}', '\u00e9 (%s)')",
        values=("it's", "a,b", 'x"y\\z', "", "{NULL}", "\u00e9 (%s)"),
    ),
    Case(
        name="composite",
        type='public."Pair, ""odd"" 100%"',
        create='CREATE TYPE @ AS ("a b" integer, "c""d" text, e numeric[], "%s" public."Mood of ""Day"", it\'s")',
        values=(
            composite("1", AWKWARD[3], '{1.10,NULL,NaN,"Infinity"}', "a,b"),
            composite(None, "", None, ""),
            composite("-1", AWKWARD[9], "{}", 'x"y\\z'),
            composite(None, None, None, None),
        ),
    ),
    Case(
        name="composite, nested",
        type='public."Outer"',
        create='CREATE TYPE @ AS (one public."Pair, ""odd"" 100%", many public."Pair, ""odd"" 100%"[], at tstzrange)',
        values=(
            composite(
                composite("1", AWKWARD[3], "{1}", "it's"),
                array([composite("2", 'x"\\,(', "{{1,2},{3,4}}", "a,b"), None, composite(None, None, None, None)]),
                '["2026-01-01 00:00:00+00",infinity)',
            ),
            composite(None, "{}", "empty"),
        ),
    ),
    Case(
        name="range over text",
        type='public."Text, range"',
        create='CREATE TYPE @ AS RANGE (subtype = text, collation = "C")',
        values=('["a,b","it\'s ""x\\\\")', "empty", "(,zzz]", '["",)'),
    ),
    Case(
        name="base",  # a type of the user's own, with input and output functions: here it borrows those of text
        type='public."Shell, type"',
        create="CREATE TYPE @; "
        "CREATE FUNCTION public.shell_in(cstring) RETURNS @ LANGUAGE internal IMMUTABLE STRICT AS 'textin'; "
        "CREATE FUNCTION public.shell_out(@) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'; "
        "CREATE TYPE @ (input = public.shell_in, output = public.shell_out, storage = extended)",
        values=AWKWARD,
    ),
)

EXCLUDED = {
    "gtsvector": "only indexes hold it",
    "pg_brin_bloom_summary": "only indexes hold it",
    "pg_brin_minmax_multi_summary": "only indexes hold it",
    "pg_dependencies": "only the catalogue holds it",
    "pg_mcv_list": "only the catalogue holds it",
    "pg_ndistinct": "only the catalogue holds it",
    "pg_node_tree": "only the catalogue holds it",
}
"""Built-in types that no table of a user's can fill: Postgres reads no value of them."""

BEFORE = (
    'CREATE TABLE public."Odd, ""table""" (id integer PRIMARY KEY)',
    'CREATE SCHEMA "Odd, schema"',
)
"""What some values name."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table under test: a case in one shape."""

    case: Case
    name: str
    type: str
    values: tuple[str, ...]


VALUES = ("plain", "domain", "domain over domain")
ARRAYS = ("array", "array of domain", "domain over array")


def shaped(case: Case, shape: str) -> Column:
    """A case in one of the shapes."""
    kind, domain = case.sql, quoted("d", case)
    types = {
        "plain": kind,
        "array": f"{kind}[]",
        "domain": domain,
        "array of domain": f"{domain}[]",
        "domain over array": quoted("da", case),
        "domain over domain": quoted("dd", case),
    }
    return Column(
        case=case,
        name=f"{case.name}, {shape}",
        type=types[shape],
        values=tuple(arrays(case)) if "array" in shape else case.values,
    )


def quoted(prefix: str, case: Case) -> str:
    """The name of a domain over a case."""
    return "public." + sql.Identifier(f"{prefix} {case.name}").as_string()


def definitions(case: Case) -> Iterator[str]:
    """What makes a case's types."""
    if case.extension:
        yield f"CREATE EXTENSION IF NOT EXISTS {case.extension}"
    if case.create:
        yield case.create.replace("@", case.sql)
    yield f"CREATE DOMAIN {quoted('d', case)} AS {case.sql}"
    yield f"CREATE DOMAIN {quoted('da', case)} AS {case.sql}[]"
    yield f"CREATE DOMAIN {quoted('dd', case)} AS {quoted('d', case)}"


def arrays(case: Case) -> Iterator[str]:
    """Arrays of a case's values: all of them, none, nested, and with bounds that do not begin at 1."""
    first, second, *_ = case.values
    delimiter = case.delimiter
    pair, other = array([first, None], delimiter), array([second, first], delimiter)
    yield array([*case.values, None], delimiter)
    yield "{}"
    yield f"{{{pair}{delimiter}{other}}}"
    yield f"[-1:0]={pair}"
    yield f"[0:1][5:6]={{{other}{delimiter}{pair}}}"
    yield f"{{{{{pair}}}}}"
