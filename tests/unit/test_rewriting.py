"""The migration's SQL while a cutover has renamed the tables."""

import pytest

from replicator.core.name_map import NameMap
from replicator.core.tables import Name
from replicator.mapping.plan import Dependency, Plan
from replicator.migration import Migration
from replicator.postgres.ddl.rewriting import named, named_anywhere, placed, rewritten


def _name(text: str) -> Name:
    schema, table = text.split(".")
    return Name(schema=schema, table=table)


PLACES = NameMap({
    _name("public.people"): _name("public.people_old"),
    _name("public.Odd"): _name("public.Odd_old"),
    _name("public.user"): _name("public.user_old"),
    _name("public.50%"): _name("public.50%_old"),
    _name("shop.people"): _name("public.people"),
    _name("shop.profiles"): _name("public.profiles"),
})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT p.id FROM public.people AS p", 'SELECT p.id FROM "public"."people_old" AS p'),
        ("SELECT p.id FROM public.people p", 'SELECT p.id FROM "public"."people_old" p'),
        (
            "SELECT people.id FROM public.people WHERE true",
            'SELECT people.id FROM "public"."people_old" AS "people" WHERE true',
        ),
        (
            "SELECT public.people.id FROM public.people",
            'SELECT "people".id FROM "public"."people_old" AS "people"',
        ),
        ("SELECT * FROM Public . People", 'SELECT * FROM "public"."people_old" AS "people"'),
        ('SELECT * FROM public."Odd", x', 'SELECT * FROM "public"."Odd_old" AS "Odd", x'),
        ("SELECT * FROM public.odd", "SELECT * FROM public.odd"),
        ("SELECT 1 UNION TABLE public.people", 'SELECT 1 UNION TABLE "public"."people_old"'),
        ("SELECT public.user.id FROM public.User", 'SELECT "user".id FROM "public"."user_old" AS "user"'),
        (
            "SELECT * FROM public.people JOIN shop.profiles USING (id)",
            'SELECT * FROM "public"."people_old" AS "people" JOIN "public"."profiles" USING (id)',
        ),
        (
            "SELECT shop.people.id FROM shop.people -- shop.people\n/* shop.people /* */ shop.people */",
            'SELECT "public"."people".id FROM "public"."people" -- shop.people\n/* shop.people /* */ shop.people */',
        ),
        ("SELECT 'shop.people', $$shop.people$$, E'\\'shop.people'", None),
        ("SELECT shop.people(1), other.shop.people, people.shop FROM x", None),
        (
            "SELECT x::public.people, CAST(x AS public.people)",
            'SELECT x::"public"."people_old", CAST(x AS "public"."people_old")',
        ),
        (
            "SELECT id FROM shop.profiles WHERE customer = %(id)s",
            'SELECT id FROM "public"."profiles" WHERE customer = %(id)s',
        ),
        (
            "SELECT (SELECT count(*) FROM public.people)",
            'SELECT (SELECT count(*) FROM "public"."people_old" AS "people")',
        ),
    ],
)  # fmt: skip
def test_tables_are_found_where_they_are(text: str, expected: str | None) -> None:
    assert rewritten(text, PLACES) == (text if expected is None else expected)
    assert rewritten(text, NameMap()) == text


def test_names_that_are_written_with_their_schema() -> None:
    text = "SELECT shop.people.id, 'shop.profiles' FROM shop.people, profiles, public.other"
    assert named(text, PLACES.moved) == {_name("shop.people")}


def test_a_lookup_has_its_percent_signs_twice() -> None:
    lookup = 'SELECT id FROM public."50%%" WHERE a = %(a)s'
    plan = Plan(
        migration=Migration("m", old="public", new="shop"),
        direction="forward",
        source_schema="public",
        target_schema="shop",
        sources={},
        targets=(),
        watched={},
        dependencies={"t": (Dependency(source="s", lookup=lookup),)},
    )
    (found,) = placed(plan, PLACES).dependencies["t"]
    assert found.lookup == 'SELECT id FROM "public"."50%%_old" AS "50%%" WHERE a = %(a)s'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT id FROM people", "SELECT id FROM people"),  # without its schema, a name is not looked up
        ("SELECT 'public.people'::regclass", "SELECT 'public.people'::regclass"),
        ("SELECT $$public.people$$", "SELECT $$public.people$$"),
        # What is called as a schema of the migration, and has a column that is called as a table that has moved.
        ("SELECT shop.people FROM items AS shop", 'SELECT "public"."people" FROM items AS shop'),
        # The star of old that means ONLY's contrary, behind which the alias belongs.
        ("SELECT * FROM public.people*", 'SELECT * FROM "public"."people_old" AS "people"*'),
        # Statements that write: no alias where a keyword of theirs follows, and nothing before a list of columns.
        ("UPDATE public.people SET a = 1", 'UPDATE "public"."people_old" SET a = 1'),
        ("INSERT INTO public.people(a) SELECT 1", "INSERT INTO public.people(a) SELECT 1"),
    ],
)
def test_what_is_not_understood(text: str, expected: str) -> None:
    assert rewritten(text, PLACES) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ALTER TABLE public.people ADD FOREIGN KEY (a) REFERENCES public.user(id)", {"public.people", "public.user"}),
        ("""DO $x$ BEGIN EXECUTE 'ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES "public"."50%"(id)'; END $x$""",
         {"public.50%"}),
        ("DO 'BEGIN EXECUTE ''TRUNCATE public.people''; END'", {"public.people"}),
        ("SELECT public.people, people, shop.others() -- shop.people", {"public.people"}),
        ("/* shop.people */ SELECT E'shop.people\\n', \"shop.people\"", {"shop.people"}),
    ],
)  # fmt: skip
def test_tables_are_named_anywhere_in_a_statement(text: str, found: set[str]) -> None:
    assert named_anywhere(text, set(PLACES.moved)) == {_name(each) for each in found}
