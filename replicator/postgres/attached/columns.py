"""Columns, what belongs to one column, and the sequences that columns own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from replicator.postgres.attached.deparsed import alter, options, with_sequences
from replicator.postgres.attached.item import Attached, Beside, Kind, Own, Text

# What not every version has is read through jsonb; there an absent column is null. Late minor releases keep a marker of
# their own, pg_attver, among the options of every column; pg_dump leaves it out, too.
COLUMNS: Final = """
    SELECT a.attrelid::int8 AS oid, a.attnum AS number, a.attname AS raw, quote_ident(a.attname) AS name,
           format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
           CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0 THEN format('%%I.%%I', cn.nspname,
                co.collname) END AS collation,
           a.attgenerated::text AS generated, a.attidentity::text AS identity,
           pg_get_expr(d.adbin, d.adrelid) AS expression,
           CASE WHEN a.attstorage <> t.typstorage THEN CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
                WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END AS storage,
           CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END AS compression,
           nullif((to_jsonb(a) ->> 'attstattarget')::int, -1) AS target,
           ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE NOT starts_with(o, 'pg_')) AS options,
           EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n'
                   AND a.attnum = ANY (k.conkey) AND NOT k.convalidated) AS unproved,
           quote_ident(k.conname) AS null_constraint
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_constraint k ON k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
    WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum
"""

# As a serial owns its sequence ('a'), and an identity ('i').
SEQUENCES: Final = """
    SELECT d.refobjid::int8 AS oid, d.refobjsubid AS number, d.deptype = 'i' AS of_identity, s.relname AS name,
           quote_literal(format('%%I.%%I', n.nspname, s.relname)) AS printed, c.relname AS table_name,
           format_type(q.seqtypid, NULL) AS type, q.seqstart::text AS start, q.seqincrement::text AS step,
           q.seqmin::text AS lowest, q.seqmax::text AS highest, q.seqcache::text AS cache, q.seqcycle AS cycle
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid
    JOIN pg_class c ON c.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
      AND d.refobjsubid > 0 AND d.refobjid = ANY (%(oids)s::oid[])
    ORDER BY d.refobjid, d.refobjsubid, s.relname
"""

BITS: Final = {"smallint": 15, "integer": 31, "bigint": 63}


def of_columns(
    columns: Sequence[dict[str, Any]], sequences: Sequence[dict[str, Any]]
) -> Iterator[tuple[int, Attached]]:
    """What the rows of ``COLUMNS`` and ``SEQUENCES`` say, with the oids of the tables."""
    printed: dict[int, list[tuple[str, str]]] = {}
    identities: dict[tuple[int, int], dict[str, Any]] = {}
    names = {(each["oid"], each["number"]): each for each in columns}
    for each in columns:
        yield each["oid"], _column(each)
    for each in sequences:
        place = (each["oid"], each["number"])
        printed.setdefault(each["oid"], []).append((each["name"], each["printed"]))
        if each["of_identity"]:
            identities[place] = each
        else:
            yield each["oid"], _sequence(each, names[place])
    for each in columns:
        of_table = printed.get(each["oid"], [])
        for item in _of_column(each, of_table, identities.get((each["oid"], each["number"]))):
            yield each["oid"], item


def _sequence(row: dict[str, Any], column: dict[str, Any]) -> Attached:
    name = Beside(row["name"])
    given = sequence_options(row)
    made: Text = ("CREATE SEQUENCE IF NOT EXISTS ", name, f" AS {row['type']}", *[f" {each}" for each in given])
    owned: Text = ("ALTER SEQUENCE ", name, " OWNED BY ", Own.TABLE, f".{column['name']}")
    return Attached(kind="sequence", name=row["name"], columns=(column["raw"],), statements=(made, owned))


def sequence_options(row: Mapping[str, Any]) -> list[str]:
    """The options of a sequence that are not the default for its type, each as CREATE SEQUENCE takes it."""
    bits = BITS[row["type"]]
    up = int(row["step"]) > 0
    lowest, highest = (1, 2**bits - 1) if up else (-(2**bits), -1)
    found = []
    if row["step"] != "1":
        found.append(f"INCREMENT BY {row['step']}")
    if int(row["lowest"]) != lowest:
        found.append(f"MINVALUE {row['lowest']}")
    if int(row["highest"]) != highest:
        found.append(f"MAXVALUE {row['highest']}")
    if row["start"] != (row["lowest"] if up else row["highest"]):
        found.append(f"START WITH {row['start']}")
    if row["cache"] != "1":
        found.append(f"CACHE {row['cache']}")
    return [*found, "CYCLE"] if row["cycle"] else found


def _column(row: dict[str, Any]) -> Attached:
    """Its type and collation, and how it is generated: for before Postgres 17 that can be said only here."""
    collation = f" COLLATE {row['collation']}" if row["collation"] else ""
    defined = f"{row['name']} {row['type']}{collation}"
    if row["generated"]:
        defined += f" GENERATED ALWAYS AS ({row['expression']}) {'STORED' if row['generated'] == 's' else 'VIRTUAL'}"
    made: Text = ("ALTER TABLE ", Own.TABLE, f" ADD COLUMN {defined}")
    return Attached(
        kind="column", name=row["raw"], columns=(row["raw"],), statements=(made,), fragment=(defined,)
    )  # fmt: skip


def _of_column(
    row: dict[str, Any], printed: Sequence[tuple[str, str]], identity: dict[str, Any] | None
) -> Iterator[Attached]:
    name = row["name"]

    def item(kind: Kind, text: Text, fragment: Text = ()) -> Attached:
        return Attached(kind=kind, name=row["raw"], columns=(row["raw"],), statements=(text,), fragment=fragment)

    if row["expression"] is not None and not row["generated"]:
        default = with_sequences(row["expression"], printed)
        yield item("default", (*alter(f"ALTER COLUMN {name} SET DEFAULT "), *default), ("DEFAULT ", *default))
    if row["not_null"]:
        yield _not_null(row, item)
    if identity is not None:
        how = "ALWAYS" if row["identity"] == "a" else "BY DEFAULT"
        made: Text = (f"GENERATED {how} AS IDENTITY", *_identity_options(row, identity))
        yield item("identity", (*alter(f"ALTER COLUMN {name} ADD "), *made), made)
    if row["storage"]:
        yield item("storage", alter(f"ALTER COLUMN {name} SET STORAGE {row['storage']}"))
    if row["compression"]:
        yield item("compression", alter(f"ALTER COLUMN {name} SET COMPRESSION {row['compression']}"))
    if row["target"] is not None:
        yield item("statistics target", alter(f"ALTER COLUMN {name} SET STATISTICS {row['target']}"))
    if row["options"]:
        yield item("column options", alter(f"ALTER COLUMN {name} SET ({', '.join(options(row['options']))})"))


def _not_null(row: dict[str, Any], item: Callable[[Kind, Text, Text], Attached]) -> Attached:
    if row["unproved"]:
        text = f"ADD CONSTRAINT {row['null_constraint']} NOT NULL {row['name']} NOT VALID"
        return replace(item("not null", alter(text), ()), valid=False)
    return item("not null", alter(f"ALTER COLUMN {row['name']} SET NOT NULL"), ("NOT NULL",))


def _identity_options(row: dict[str, Any], sequence: dict[str, Any]) -> Text:
    """With the sequence's name where it is not the one that Postgres would choose."""
    given = sequence_options(sequence)
    if sequence["name"] == f"{sequence['table_name']}_{row['raw']}_seq":
        return (f" ({' '.join(given)})",) if given else ()
    return (" (SEQUENCE NAME ", Beside(sequence["name"]), *[f" {each}" for each in given], ")")
