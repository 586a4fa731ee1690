"""``Migration.copy``: what one declaration makes of rows either way, and what it refuses."""

from typing import Any

import pytest

from replicator import Migration
from replicator.core.casts import Cast
from replicator.core.copies import Addition
from replicator.errors import MigrationError
from replicator.migration import Direction, Query, Transform


def migration(**options: Any) -> Migration:
    return Migration("shop", old="public", new="shop", **options)


def only(made: Migration, direction: Direction) -> Transform:
    (found,) = made.of(direction)
    return found


def test_a_copy_says_how_a_table_is_like_another() -> None:
    made = migration()
    copy = made.copy(
        "orders",
        into="sales",
        rename={"at": "sold_at"},
        cast={"id": "bigint", "at": "timestamptz USING at AT TIME ZONE 'UTC'", "state": ("state", str.lower)},
        drop=["note"],
        add={"tenant": "integer NOT NULL DEFAULT 1", "year": ("integer", lambda old: int(old["at"][:4]))},
        partition_by="RANGE (sold_at)",
        back={"state": str.upper},
    )
    assert made.copies == [copy]
    assert (copy.source, copy.into, copy.rename, copy.drop) == ("orders", "sales", {"at": "sold_at"}, ("note",))
    assert copy.partition_by == "RANGE (sold_at)"
    assert copy.cast["id"] == Cast(type="bigint")
    assert copy.cast["at"] == Cast(type="timestamptz", using="at AT TIME ZONE 'UTC'")
    assert copy.cast["state"] == Cast(type="state", function=str.lower)
    assert copy.add["tenant"] == Addition(definition="integer NOT NULL DEFAULT 1")
    assert copy.add["year"].definition == "integer"
    assert [copy.new_name(each) for each in ("id", "at", "note", "other")] == ["id", "sold_at", None, "other"]
    assert made.retired_columns == {"orders": {"note": "the copy into sales drops it"}}
    assert [(each.name, each.source_name, each.into) for each in made.transforms] == [
        ("copy_orders_into_sales", "cast of orders", "sales"),
        ("copy_orders_into_sales_back", "cast of sales", "orders"),
    ]


def test_rows_pass_whatever_columns_they_have() -> None:
    made = migration()
    made.copy(
        "people",
        into="people",
        rename={"name": "full_name"},
        cast={"id": "bigint", "mood": ("mood", str.upper)},
        drop=["note"],
        add={"tenant": "integer NOT NULL DEFAULT 1", "short": ("text", lambda old: old["name"][:1])},
        back={"mood": str.lower, "note": lambda new: f"was {new['full_name']}"},
    )
    old = {"id": 1, "name": "Ann", "mood": "glad", "note": "?", "other": None}
    new = {"id": 1, "full_name": "Ann", "mood": "GLAD", "short": "A", "other": None}
    assert only(made, "forward").function(old) == new
    assert only(made, "reverse").function(new | {"tenant": 2}) == old | {"note": "was Ann"}
    assert only(made, "forward").function(old | {"mood": None}) == new | {"mood": None}, "NULL stays NULL"


def test_an_expression_is_evaluated_by_the_server_either_way() -> None:
    made = migration()
    made.copy("logs", into="logs", rename={"At": "seen"}, cast={"At": "timestamptz USING \"At\" AT TIME ZONE 'UTC'"})
    queries = [each.source for each in made.transforms]
    assert all(isinstance(each, Query) for each in queries)
    forward, reverse = (made.query_text(each) for each in queries if isinstance(each, Query))
    assert '"logs".*,\n    ("At" AT TIME ZONE \'UTC\'\n    ) AS "replicator_using_1"\nFROM "public"."logs"' in forward
    assert '("seen" AT TIME ZONE \'UTC\'\n    ) AS "replicator_using_1"\nFROM "shop"."logs"' in reverse
    assert only(made, "forward").function({"id": 1, "At": "x", "replicator_using_1": "y"}) == {"id": 1, "seen": "y"}
    assert only(made, "reverse").function({"id": 1, "seen": "y", "replicator_using_1": "x"}) == {"id": 1, "At": "x"}


@pytest.mark.parametrize(
    "using", ["n::integer", 'n :: "integer"'.replace('"', ""), "N::numeric(10, 2)", '"n"::double precision', "n::int[]"]
)
def test_a_cast_by_type_comes_back_as_it_is(using: str) -> None:
    made = migration()
    copy = made.copy("t", into="t", cast={"n": f"integer USING {using}"})
    assert copy.back == {"n": Cast(type="")}


def test_columns_take_each_others_names() -> None:
    made = migration()
    made.copy(
        "t", into="t", rename={"a": "b", "b": "a", "c": "d"}, drop=["d"],
        add={"c": ("text", lambda old: old["c"] + old["d"])},
        cast={"a": ("text", str.upper)}, back={"a": str.lower, "d": lambda new: new["c"][1:]},
    )  # fmt: skip
    old, new = {"a": "x", "b": "y", "c": "1", "d": "2"}, {"b": "X", "a": "y", "d": "1", "c": "12"}
    assert only(made, "forward").function(old) == new
    assert only(made, "reverse").function(new) == old


def test_a_word_in_quotes_reads_nothing() -> None:
    made = migration(way_back=False)
    using = """replace("select", E'it\\'s -- table', 'SELECT over (x)') /* select */ -- select"""
    assert made.copy("t", into="t", cast={"n": f"text USING {using}"}).cast["n"].using == using


def test_without_a_way_back_no_reverse_is_made() -> None:
    made = migration(way_back=False)
    made.copy("t", into="t", cast={"n": "integer USING length(n)"}, drop=["m"])
    assert made.of("reverse") == []
    one = migration()
    one.copy("t", into="t", cast={"n": "integer USING length(n)"}, way_back=False)
    assert one.of("reverse") == []


@pytest.mark.parametrize(
    ("given", "said", "remedy"),
    [
        ({"cast": {"n": "integer USING length(n)"}}, "nothing says how it comes back", 'Add back={"n": "TYPE USING'),
        ({"cast": {"n": "boolean USING n::boolean AND m"}}, "nothing says how it comes back", 'Add back={"n"'),
        ({"cast": {"n": "timestamptz USING m AT TIME ZONE 'UTC'"}}, "nothing says how", 'Add back={"n"'),
        ({"cast": {"n": ("text", str.lower)}}, "nothing says how it comes back", 'Add back={"n": FUNCTION'),
        ({"cast": {"n": "integer USING "}}, "lacks a type, or an expression", "TYPE USING EXPRESSION"),
        ({"cast": {"n": "USING length(n)"}}, "lacks a type, or an expression", "TYPE USING EXPRESSION"),
        ({"cast": {"n": "text USING (SELECT max(n) FROM public.t)"}}, "reads more than the row", "with a Query"),
        ({"cast": {"n": "bigint USING row_number() over(ORDER BY n)"}}, "reads more than the row", "with a Query"),
        ({"cast": {"n": ""}}, "the cast of n is no type", 'Write {"n": "TYPE"}'),
        ({"cast": {"n": int}}, "the cast of n is no type", 'Write {"n": "TYPE"}'),
        ({"cast": {"n": ("int USING n", str)}}, "the cast of n is no type", 'Write {"n": "TYPE"}'),
        ({"add": {"n": ""}}, "what add= says of n is no definition", "TYPE DEFAULT"),
        ({"add": {"n": 1}}, "what add= says of n is no definition", "TYPE DEFAULT"),
        ({"drop": "note"}, "drop='note' is no list", "Write drop=['note']"),
        ({"rename": ["n"]}, "rename= is no dict of columns", 'Write rename={"COLUMN": ...}'),
        ({"cast": "bigint"}, "cast= is no dict of columns", 'Write cast={"COLUMN": ...}'),
        ({"rename": {"n": None}}, "n is renamed to no name", 'Write rename={"n": "NEW_NAME"}'),
        ({"drop": ["n"], "rename": {"n": "m"}}, "n is dropped, and renamed or cast too", "Take n out of one"),
        ({"drop": ["n"], "cast": {"n": "text"}}, "n is dropped, and renamed or cast too", "Take n out of one"),
        ({"rename": {"n": "o", "m": "o"}}, "two columns are renamed to o", "two names"),
        ({"rename": {"n": "o"}, "add": {"o": "text"}}, "o is added, and another column is renamed", "two names"),
        ({"add": {"n": "text"}, "cast": {"n": "text"}}, "n is added, and is an old column", "another name"),
        ({"back": {"n": str}}, "back= names n, which neither cast= nor drop= names", "Take n out"),
        ({"drop": ["n"], "back": {"n": "text"}}, "what back= says of it is no function", "back={"),
        ({"cast": {"n": "text"}, "back": {"n": str}, "way_back": False}, "it has no way back, and back=", "Take one"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], said: str, remedy: str) -> None:
    made = migration()
    with pytest.raises(MigrationError) as refused:
        made.copy("t", into="t", **given)
    assert refused.value.problem.startswith("The copy of t: ")
    assert said in refused.value.problem
    assert remedy in refused.value.remedy
    assert made.transforms == [] == made.copies


def test_a_table_is_copied_once_and_not_onto_itself() -> None:
    made = migration()
    made.copy("t", into="t")
    for source, into, said in (("t", "t", "declared twice"), ("t", "u", "the same rows"), ("u", "t", "the same rows")):
        with pytest.raises(MigrationError, match=said):
            made.copy(source, into=into)
    made.copy("t", into="parts", way_back=False)
    with pytest.raises(MigrationError, match="onto itself"):
        Migration("x", old="public", new="public").copy("t", into="t")
