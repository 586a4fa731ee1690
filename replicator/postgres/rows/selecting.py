"""SQL that selects from a source: which columns, from where, and by which keys. All of it is put beside parameters."""

from collections.abc import Sequence

from psycopg import sql

from replicator.core.tables import Column, Key
from replicator.mapping.plan import Source
from replicator.postgres.catalog.operators import equal
from replicator.postgres.rows.keys import form_of
from replicator.postgres.rows.ranges import between
from replicator.postgres.rows.texts import read
from replicator.postgres.session.connect import beside_parameters, comma, identifier


def selected(source: Source) -> list[sql.Composed]:
    """All columns of a row, with the forms of its key."""
    return with_forms(source, [each.name for each in source.columns])


def with_forms(source: Source, names: Sequence[str]) -> list[sql.Composed]:
    """Columns, and after them the forms of the key's columns that the server alone knows."""
    forms = [
        sql.SQL("{} AS {}").format(
            beside_parameters(form_of(source.by_name[name], identifier("q", name))),
            identifier(f"replicator_form_{place}"),
        )
        for place, name in enumerate(apart(source))
    ]
    return [*(sql.SQL("{}").format(_name("q", name)) for name in names), *forms]


def apart(source: Source) -> list[str]:
    """The columns of the key whose form is selected beside them."""
    return [name for name in source.key if source.by_name[name].form.prints_apart]


def source_as(source: Source) -> sql.Composed:
    """The table or the query, called q."""
    if source.table is not None:
        return sql.SQL("{} AS q").format(_name(source.table.name.schema, source.table.name.table))
    return sql.SQL("({}) AS q").format(beside_parameters(sql.SQL(source.query or "")))


def key_names(source: Source) -> sql.Composed:
    """The key, for ORDER BY: by the names of what is selected."""
    return comma([_name(name) for name in source.key])


def among(source: Source, columns: Sequence[str]) -> sql.Composed:
    """That these columns have one of the lists of values that are given as arrays of texts, a parameter for each."""
    aliases = [identifier(f"k{place}") for place in range(len(columns))]
    same = sql.SQL(" AND ").join(
        equal(
            _name("q", name),
            beside_parameters(read(identifier("k", f"k{place}"), source.by_name[name])),
            source.by_name[name].operators,
        )
        for place, name in enumerate(columns)
    )
    arrays = sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(columns))
    return sql.SQL("EXISTS (SELECT FROM unnest({}) AS k({}) WHERE {})").format(arrays, comma(aliases), same)


def having_key(source: Source) -> sql.Composed:
    """That the key is the one whose texts are given, a parameter for each column: in a form that any index serves."""
    texts = [sql.SQL("%s::text") for _ in source.key]
    return sql.SQL(" AND ").join(
        equal(_name("q", name), _read(text, source.by_name[name]), source.by_name[name].operators)
        for name, text in zip(source.key, texts, strict=True)
    )


def _read(parameter: sql.SQL, column: Column) -> sql.SQL:
    """As ``read``, with all but the parameter put beside parameters."""
    before, after = read(sql.SQL("\0"), column).as_string().split("\0")
    return sql.SQL(before.replace("%", "%%") + parameter.as_string() + after.replace("%", "%%"))


def in_range(
    source: Source, lower: Key | None, upper: Key | None, columns: Sequence[sql.Composed]
) -> tuple[sql.Composed, list[str]]:
    """A SELECT of the rows of a range; what is put behind it, such as ORDER BY, counts for all of them.

    Rows of a query that have no key, because of a NULL in it, are in no range.
    """
    conditions = between([source.by_name[name] for name in source.key], lower, upper, lambda name: _name("q", name))
    keyed = sql.SQL("").join(
        sql.SQL(" AND num_nulls({}) = 0").format(_name("q", name)) for name in source.key if source.table is None
    )
    query = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} FROM {} WHERE {}{}").format(comma(list(columns)), source_as(source), each.text, keyed)
        for each in conditions
    )
    return query, [parameter for each in conditions for parameter in each.parameters]


def _name(*parts: str) -> sql.SQL:
    return beside_parameters(identifier(*parts))
