"""``f`` itself: runs a transform on a source row, gives target rows as text. Backfill, follow, verify all call it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replicator.equality import formed
from replicator.errors import MigrationError, TransformError
from replicator.migration import as_rows
from replicator.plan import PlannedTransform, Source
from replicator.tables import Column, Key, Row, key_of
from replicator.values import PARSERS, Value, to_text


@dataclass(slots=True, frozen=True)
class TargetRow:
    """One row for a target, as text, ready for COPY. ``columns`` are those that the transform gave, and the key's."""

    transform: str
    source_key: Key
    key: Key
    """As it is spelt, where the server must be asked for its form: ``postgres.derived`` does."""
    columns: dict[str, str | None]
    claimed: Key | None = None
    """The key as the columns spell it, where the server must say whether ``key`` is the same."""


def derive(transform: PlannedTransform, source: Source, source_key: Key, row: Row) -> list[TargetRow]:
    """Run a transform on one row.

    :raises TransformError: when the function raises, or gives a value that cannot be written or a key that is not its
        own; names the transform and the source key, never a value of the row.
    :raises MigrationError: when it gives a column that the target has not.
    """
    try:
        results = list(as_rows(transform.function(row)))
    except Exception as error:
        raise TransformError(
            f"The transform {transform.name} raised {type(error).__name__} for {source.name} {list(source_key)}"
            f"{_where(error)}.",
            "Mend the transform or the row.",
        ) from error
    computed = computed_key(transform, source, source_key) if transform.key else None
    return [_target_row(transform, source_key, computed, result) for result in results]


def computed_key(transform: PlannedTransform, source: Source, source_key: Key) -> Key:
    """The target key that follows from a source key. Raises TransformError when ``key=`` fails or does not fit."""
    if transform.key is None:
        raise ValueError(f"{transform.name} has no key function")
    row = parse_key(source, source_key)
    try:
        result = transform.key(row)
    except Exception as error:
        raise TransformError(
            f"The key= of the transform {transform.name} raised {type(error).__name__} for {source.name} "
            f"{list(source_key)}{_where(error)}.",
            "It may read only the source's key columns.",
        ) from error
    if isinstance(result, Mapping):
        result = tuple(result.get(name) for name in transform.target.key)
    parts = result if isinstance(result, tuple) else (result,)
    if len(parts) != len(transform.target.key):
        raise MigrationError(
            f"The key= of the transform {transform.name} gives {len(parts)} values; the primary key of "
            f"{transform.target.name} has {len(transform.target.key)} columns."
        )
    named = dict(zip(transform.target.key, parts, strict=True))
    return _key(transform, source_key, named)


def parse_key(source: Source, key: Key) -> Row:
    """A source key as the row of its columns, with Python values."""
    return {name: PARSERS[source.by_name[name].kind](text) for name, text in zip(source.key, key, strict=True)}


def _target_row(transform: PlannedTransform, source_key: Key, computed: Key | None, result: Any) -> TargetRow:
    if not isinstance(result, Mapping):
        raise MigrationError(f"The transform {transform.name} returned a {type(result).__name__}, not a dict.")
    table = transform.target
    by_name, unwritable = table.by_name, table.unwritable
    columns: dict[str, str | None] = {}
    for name, value in result.items():
        column = by_name.get(name)
        if column is None or name in unwritable:
            raise _no_such_column(transform, name, column)
        # Most values are text or null already; this is the innermost loop of a backfill.
        plain = value is None or value.__class__ is str
        columns[name] = value if plain else _text(transform, column, source_key, value)
    claimed = None
    if computed is None:
        key = _key(transform, source_key, result)
    else:
        key = computed
        claimed = _claimed(transform, source_key, computed, columns)
    for name, text in zip(table.key, key, strict=True):
        columns.setdefault(name, text)  # as the transform spelt it: 1.00 is the same key as 1, and another text
    return TargetRow(transform.name, source_key, key, columns, claimed)


def _no_such_column(transform: PlannedTransform, name: str, column: Column | None) -> MigrationError:
    return MigrationError(
        f"The transform {transform.name} gives the column {name}, which "
        f"{transform.target.name} {'does not have' if column is None else 'generates itself'}."
    )


def _claimed(
    transform: PlannedTransform, source_key: Key, computed: Key, columns: Mapping[str, str | None]
) -> Key | None:
    """The key that a row's columns spell, if only the server knows whether it is the computed one.

    Raises TransformError for another.
    """
    table = transform.target
    spelt: list[str] = []
    for name, expected in zip(table.key, computed, strict=True):
        text, form = columns.get(name, expected), table.by_name[name].form
        if text is not None and (form.asked or formed(form, text) == expected):
            spelt.append(text if form.asked else expected)
    if len(spelt) < len(computed):
        raise other_key(transform, source_key, table.key)
    return None if tuple(spelt) == computed else tuple(spelt)


def other_key(transform: PlannedTransform, source_key: Key, names: Sequence[str]) -> TransformError:
    """For a row whose key is not the one that ``key=`` gives."""
    return TransformError(
        f"The transform {transform.name} gives another {', '.join(names)} than its key= for {list(source_key)}.",
        "Make them agree, or leave key= out.",
    )


def _key(transform: PlannedTransform, source_key: Key, result: Mapping[str, Value]) -> Key:
    table = transform.target
    missing = [name for name in table.key if name not in result]
    if missing:
        raise MigrationError(
            f"The transform {transform.name} gives no {', '.join(missing)}, which is in the primary key of "
            f"{table.name}."
        )
    try:
        return key_of(result, table.key, table.by_name)
    except (TypeError, ValueError) as error:
        raise no_key(transform, source_key) from error


def no_key(transform: PlannedTransform, source_key: Key) -> TransformError:
    """For a row without a key that its table can hold."""
    return TransformError(
        f"The transform {transform.name} gives no usable key for {list(source_key)}: a column of it is null or of the "
        "wrong form."
    )


def _text(transform: PlannedTransform, column: Column, source_key: Key, value: Value) -> str | None:
    try:
        return to_text(value, column.kind)
    except (TypeError, ValueError) as error:
        raise TransformError(
            f"The transform {transform.name} gives a {type(value).__name__} for {transform.target.name}.{column.name} "
            f"({column.type}), which cannot be written, for {list(source_key)}."
        ) from error


def _where(error: Exception) -> str:
    """The line of the author's code that raised: no value, only the place."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    code = traceback.tb_frame.f_code
    return f" at {code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}"
