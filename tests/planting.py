"""Puts functions, operators and casts into ``public`` for all that our SQL calls."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

PACKAGE: Final = Path(__file__).parents[1] / "replicator"
CALLED: Final = "SELECT is_called FROM public.declared"
WORD: Final = re.compile(r"\b([a-z_][a-z0-9_]*)\s*\(")

BEFORE: Final = """
CREATE SEQUENCE public.declared;
CREATE FUNCTION public.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_catalog.nextval('public.declared'::pg_catalog.regclass);  -- stays, though the transaction fails
    RAISE EXCEPTION 'something planted was called';
END $$;
GRANT ALL ON SEQUENCE public.declared TO PUBLIC;
"""

# What a call would rather take than the function of Postgres: its own arguments, spelt more closely.
CLOSER: Final = {
    "any": ("text", "integer", "bigint", "oid", "boolean", "name", "jsonb"),
    "anyelement": ("text", "integer", "bigint", "oid", "name"),
    "anyarray": ("text[]", "integer[]", "oid[]", "smallint[]", "bigint[]", "name[]"),
    "anynonarray": ("text", "integer", "name"),
    "anycompatible": ("text", "integer", "name"),
    "anycompatiblearray": ("text[]", "integer[]", "oid[]"),
    "text": ("text", "character varying", "name"),
    "oid": ("oid", "regclass"),
    "regclass": ("regclass", "oid"),
    "numeric": ("numeric", "integer", "bigint"),
    "bigint": ("bigint", "integer"),
}

FUNCTIONS: Final = """
    SELECT p.proname, p.prokind::text, p.proretset, p.pronargs - p.pronargdefaults AS least,
           ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY a(t, n) ORDER BY n),
           p.provariadic <> 0 AS variadic
    FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (%s) AND p.pronargs <= 5
    AND p.prokind IN ('f', 'a')
"""

OPERATORS: Final = ("=", "<>", "<", ">", "<=", ">=", "||", "+", "-", "->>", "->", "~~", "@>")
COMPARED: Final = (
    "character varying", "text", "name", "oid", "regclass", "integer", "smallint", "jsonb", "timestamptz", "xid",
    "integer[]", "smallint[]", "oid[]", "text[]", "pg_lsn", "boolean", "public.mood", "public.pair",
)  # fmt: skip


def plant(opened: "psycopg.Connection[Any]") -> int:
    """As the role of this connection, which may create in ``public``, and owns the types there; gives how many."""
    opened.execute(BEFORE.encode())
    done = 0
    for statement in [*_functions(opened), *_operators(), *_casts()]:
        try:
            opened.execute(statement.encode())
        except (psycopg.ProgrammingError, psycopg.NotSupportedError):
            continue  # one of the name, or none of that kind
        done += 1
    return done


def called_names() -> set[str]:
    """What our SQL may call."""
    texts = [each.read_text(encoding="utf-8") for each in PACKAGE.rglob("*") if each.suffix in {".py", ".sql"}]
    return {name for text in texts for name in WORD.findall(text)}


def _functions(opened: "psycopg.Connection[Any]") -> Iterator[str]:
    made = set()
    for name, _, returns_set, _, arguments, variadic in opened.execute(FUNCTIONS, [sorted(called_names())]).fetchall():
        for chosen in _closer([str(each).strip('"') for each in arguments], variadic=variadic):
            if (name, chosen) not in made:
                made.add((name, chosen))
                yield _function(str(name), chosen, returns_set=bool(returns_set))


def _closer(arguments: list[str], *, variadic: bool) -> Iterator[tuple[str, ...]]:
    """Signatures that match at least as well as the given one."""
    yield tuple(arguments)
    longest = 4 if variadic else 1
    options = [CLOSER.get(each, (each,)) for each in arguments]
    for choice in range(max((len(each) for each in options), default=0)):
        chosen = [each[choice % len(each)] for each in options]
        for times in range(1, longest + 1):
            yield (*chosen[:-1], *chosen[-1:] * times)


def _function(name: str, arguments: tuple[str, ...], *, returns_set: bool) -> str:
    returns = "SETOF text" if returns_set else "text"
    listed = ", ".join(arguments)
    return (
        f"CREATE FUNCTION public.{sql.Identifier(name).as_string()}({listed}) RETURNS {returns} LANGUAGE plpgsql "
        "AS $$ BEGIN PERFORM public.trap(); END $$"
    )


def _operators() -> Iterator[str]:
    for left in COMPARED:
        for right in COMPARED:
            yield (
                f"CREATE FUNCTION public.trap_of({left}, {right}) RETURNS boolean LANGUAGE plpgsql "
                "AS $$ BEGIN PERFORM public.trap(); END $$"
            )
            for name in OPERATORS:
                yield (
                    f"CREATE OPERATOR public.{name} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.trap_of)"
                )


def _casts() -> Iterator[str]:
    """Those to text are refused by checks."""
    for own in ("public.mood", "public.pair"):
        for other in ("text", "character varying", "json", "jsonb", "name"):
            ways = ((own, other), (other, own)) if other in {"json", "jsonb", "name"} else ((other, own),)
            for source, target in ways:
                name = f"public.{re.sub('[^a-z]', '_', f'cast_{source}_{target}')}"
                yield (
                    f"CREATE FUNCTION {name}({source}) RETURNS {target} LANGUAGE plpgsql "
                    "AS $$ BEGIN PERFORM public.trap(); END $$"
                )
                yield f"CREATE CAST ({source} AS {target}) WITH FUNCTION {name}({source}) AS ASSIGNMENT"
