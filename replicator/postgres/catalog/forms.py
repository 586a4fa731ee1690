"""Which values of a type are equal, as far as the catalogue tells: the form of each column (``equality.Form``)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from psycopg.rows import dict_row

from replicator.core.equality import Asked, Family, Form
from replicator.postgres.session.connect import Connection

Typed = tuple[int, int, int]
"""Type, modifier and collation, as pg_attribute has them."""

BUILT_IN: Final[dict[str, tuple[Family, Asked]]] = {
    "bool": ("boolean", "printed"),
    "bytea": ("bytea", "printed"),
    "int2": ("integer", ""),
    "int4": ("integer", ""),
    "int8": ("integer", ""),
    "oid": ("integer", ""),
    "numeric": ("numeric", ""),
    "float4": ("float", "printed"),
    "float8": ("float", ""),
    "uuid": ("uuid", ""),
    "text": ("text", ""),
    "varchar": ("text", ""),
    "bpchar": ("blanks", ""),
    "jsonb": ("numbers", "printed"),
    "interval": ("printed", "justified"),
    **dict.fromkeys(
        (
            *("name", "char", "date", "time", "timetz", "timestamp", "timestamptz", "money", "bit", "varbit"),
            *("inet", "cidr", "macaddr", "macaddr8", "pg_lsn", "xid8", "tid", "oidvector", "tsvector", "tsquery"),
        ),
        ("printed", "printed"),
    ),
}
"""The types that can be a key, and print equal values alike, or in a way that can be brought to one form."""

OF_EXTENSIONS: Final[dict[tuple[str, str], Asked]] = {("citext", "citext"): "folded", ("ltree", "ltree"): "printed"}
"""The same for types by extension and name."""

CUTS: Final = ("varchar", "bpchar")
ROUNDS: Final = ("time", "timetz", "timestamp", "timestamptz", "interval")
"""Types whose modifier changes a value that is written; a bit string that does not fit is refused."""

TYPES: Final = """
    WITH RECURSIVE reached(oid) AS (
        SELECT unnest(%(oids)s::oid[])
        UNION
        SELECT part.oid FROM reached r JOIN pg_catalog.pg_type t ON t.oid = r.oid CROSS JOIN LATERAL (
            SELECT t.typbasetype UNION ALL SELECT t.typelem
            UNION ALL SELECT g.rngsubtype FROM pg_catalog.pg_range g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ) AS part(oid) WHERE part.oid <> 0
    )
    SELECT t.oid::int8, t.typname::text AS name, t.typtype::text AS type, n.nspname = 'pg_catalog' AS built_in,
        t.typbasetype::int8 AS under, t.typtypmod AS modifier, t.typcategory = 'A' AS is_array,
        t.typelem::int8 AS element,
        pg_catalog.format_type(t.oid, NULL) AS shown, e.extname::text AS extension, g.rngsubtype::int8 AS subtype,
        g.rngcollation::int8 AS subtype_collation,
        ARRAY(
            SELECT ARRAY[a.atttypid::int8, a.atttypmod::int8, a.attcollation::int8] FROM pg_catalog.pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ) AS fields
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_range g ON t.oid IN (g.rngtypid, g.rngmultitypid)
    LEFT JOIN pg_catalog.pg_depend d
        ON d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
    LEFT JOIN pg_catalog.pg_extension e
        ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = e.oid
    WHERE t.oid IN (SELECT oid FROM reached)
"""

LOOSE: Final = (
    "SELECT oid::int8 AS oid, collname::text AS name FROM pg_catalog.pg_collation WHERE NOT collisdeterministic"
)

CASTS: Final = """
    SELECT k.oid, k.modifier, pg_catalog.format_type(k.oid::oid, k.modifier) AS cast
    FROM unnest(%(oids)s::int8[], %(modifiers)s::int4[]) AS k(oid, modifier)
"""


UNDETERMINED: Final = -1
"""Stands for the collation of an expression that has none, for its parts have several."""


@dataclass(frozen=True, kw_only=True)
class Type:
    """A row of pg_type, as far as equality hangs on it."""

    oid: int
    name: str
    type: str
    built_in: bool
    under: int
    modifier: int
    is_array: bool
    element: int
    shown: str
    extension: str | None
    subtype: int | None
    subtype_collation: int | None
    fields: list[list[int]]


@dataclass(frozen=True)
class _Catalogue:
    types: Mapping[int, Type]
    loose: Mapping[int, str]
    """What is wrong with a collation, by its oid."""

    def form(self, oid: int, modifier: int, collation: int) -> Form:
        found = self.types[oid]
        if found.type == "d":
            return self.form(found.under, found.modifier if found.modifier >= 0 else modifier, collation)
        own = self._own(found, modifier, collation)
        return replace(own, base=found.shown)

    def stripped(self, oid: int, modifier: int) -> tuple[int, int]:
        """The type with no domain around it, and its modifier where that changes a value."""
        found = self.types[oid]
        if found.type == "d":
            return self.stripped(found.under, found.modifier if found.modifier >= 0 else modifier)
        return oid, modifier if found.built_in and found.name in ROUNDS else -1

    def _own(self, found: Type, modifier: int, collation: int) -> Form:
        if found.type == "e":
            return Form(family="text")
        if found.is_array and found.element:
            return self._holding([self.form(found.element, -1, collation)])
        if found.subtype is not None:
            return self._holding([self.form(found.subtype, -1, found.subtype_collation or 0)])
        if found.type == "c":
            return self._holding([self.form(*each) for each in found.fields], one=False)
        if found.extension is not None and (found.extension, found.name) in OF_EXTENSIONS:
            return Form(family="printed", asked=OF_EXTENSIONS[found.extension, found.name])
        if not found.built_in or found.name not in BUILT_IN:
            return _none(f"which values of the type {found.shown} are equal is not known")
        if collation in self.loose:
            return _none(self.loose[collation])
        family, asked = BUILT_IN[found.name]
        length = modifier - 4 if found.name in CUTS and modifier >= 4 else None
        return Form(family=family, asked=asked, length=length, scale=_scale(found, modifier),
                    digits=_digits(found, modifier))  # fmt: skip

    @staticmethod
    def _holding(parts: list[Form], *, one: bool = True) -> Form:
        """Of an array, a range or a row: equal when its parts are, so these must print equal values alike."""
        for each in parts:
            if each.problem:
                return _none(each.problem)
            if one and each.family in {"numeric", "float"}:
                return Form(family="numbers", asked="printed")
            if each.prints_apart or each.family in {"numeric", "float", "numbers", "blanks"}:
                return _none("it holds parts that are equal though they print otherwise")
        return Form(family="printed", asked="printed")


def _none(problem: str) -> Form:
    return Form(family="printed", problem=problem)


def _scale(found: Type, modifier: int) -> int | None:
    if found.name != "numeric" or modifier < 4:
        return None
    return (((modifier - 4) & 0x7FF) ^ 0x400) - 0x400  # eleven bits with a sign


def _digits(found: Type, modifier: int) -> int | None:
    scale = _scale(found, modifier)
    return None if scale is None else (((modifier - 4) >> 16) & 0xFFFF) - scale


async def read_forms(connection: Connection, columns: Iterable[Typed]) -> dict[Typed, Form]:
    """The form of each column."""
    wanted = set(columns)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(TYPES, {"oids": [oid for oid, _, _ in wanted]})
        types = {row["oid"]: Type(**row) for row in await cursor.fetchall()}
        await cursor.execute(LOOSE)
        loose = {
            row["oid"]: f"its collation {row['name']} takes different texts for equal"
            for row in await cursor.fetchall()
        }
        loose[UNDETERMINED] = "it has no collation, for its parts have several"
        catalogue = _Catalogue(types, loose)
        stripped = {each: catalogue.stripped(each[0], each[1]) for each in wanted}
        listed = list(set(stripped.values()))
        await cursor.execute(
            CASTS, {"oids": [oid for oid, _ in listed], "modifiers": [modifier for _, modifier in listed]}
        )
        casts = {(row["oid"], row["modifier"]): row["cast"] for row in await cursor.fetchall()}
    return {each: replace(catalogue.form(*each), cast=casts[stripped[each]]) for each in wanted}
