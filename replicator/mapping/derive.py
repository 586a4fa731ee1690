"""``f`` itself: runs a transform on a source row, gives target rows as text. Backfill, follow, verify all call it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replicator.core.equality import formed
from replicator.core.tables import Column, Key, Row, key_of
from replicator.errors import ShapeError, TransformError
from replicator.mapping.plan import PlannedTransform, Source
from replicator.migration import as_rows
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


class UnreadableRow(dict[str, Value]):
    """Stands for a row that the server cannot give: a query or a generated column fails for it. ``problem``: why."""

    def __init__(self, problem: str) -> None:
        super().__init__()
        self.problem = problem


def derive(transform: PlannedTransform, source: Source, source_key: Key, row: Row) -> list[TargetRow]:
    """Run a transform on one row.

    :raises TransformError: whatever goes wrong: when the function raises, or gives a value that cannot be written, a
        column that is not there, or a key that is not its own; names the transform and the source key, never a value
        of the row. ShapeError when what it gives has not the form of a row of the target.
    """
    if isinstance(row, UnreadableRow):
        raise unreadable(source, source_key, row)
    try:
        # A copy: what one transform does to its row, the next one must not see, nor whoever compares.
        own = dict(row) if row.__class__ is dict else row
        results = list(as_rows(transform.function(own)))
    except BaseException as error:  # noqa: BLE001
        raise _blame(error, f"The transform {transform.name}", source, source_key) from None
    computed = computed_key(transform, source, source_key) if transform.key and results else None
    return target_rows(transform, source, source_key, computed, results)


def target_rows(
    transform: PlannedTransform, source: Source, source_key: Key, computed: Key | None, results: Sequence[Any]
) -> list[TargetRow]:
    """What one source row gives, as rows of the target; raises as ``derive``.

    :param computed: the target key that ``key=`` gives, if there is one.
    """
    try:
        return [_target_row(transform, source_key, computed, result) for result in results]
    except TransformError:
        raise
    except BaseException as error:  # noqa: BLE001  a value may be of any class: its methods are the author's code too
        raise _blame(error, f"The result of the transform {transform.name}", source, source_key) from None


def unreadable(source: Source, source_key: Key, row: UnreadableRow) -> TransformError:
    """For a row that the server cannot give."""
    return TransformError(
        f"{source.name} {list(source_key)} cannot be read: {row.problem}", "Mend the row, or the query."
    )


def computed_key(transform: PlannedTransform, source: Source, source_key: Key) -> Key:
    """The target key that follows from a source key. Raises TransformError when ``key=`` fails or does not fit."""
    if transform.key is None:
        raise ValueError(f"{transform.name} has no key function")
    try:
        return key_of_result(transform, transform.key(parse_key(source, source_key)), source_key)
    except TransformError:
        raise
    except BaseException as error:  # noqa: BLE001
        raise _blame(error, f"The key= of the transform {transform.name}", source, source_key) from None


def key_of_result(transform: PlannedTransform, result: Any, source_key: Key) -> Key:
    """The target key of what ``key=`` has given. Raises TransformError when that is none."""
    if isinstance(result, Mapping):
        result = tuple(result.get(name) for name in transform.target.key)
    parts = result if isinstance(result, tuple) else (result,)
    if len(parts) != len(transform.target.key):
        raise ShapeError(
            f"The key= of the transform {transform.name} returns {len(parts)} values; the primary key of "
            f"{transform.target.name} has {len(transform.target.key)} columns."
        )
    named = dict(zip(transform.target.key, parts, strict=True))
    return _key(transform, source_key, named)


def _blame(error: BaseException, what: str, source: Source, source_key: Key) -> TransformError:
    """The error of this one row, whatever the author's code raised: ``sys.exit()`` must not end the daemon.

    Nothing is awaited where this is called, so no cancellation of ours comes by; an interrupt from the keyboard does.
    The caller drops the cause: its text is made of the row.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    return TransformError(
        f"{what} raised {type(error).__name__} for {source.name} {list(source_key)}{_where(error)}.",
        "Mend the transform or the row.",
    )


def parse_key(source: Source, key: Key) -> Row:
    """A source key as the row of its columns, with Python values."""
    return {name: PARSERS[source.by_name[name].kind](text) for name, text in zip(source.key, key, strict=True)}


def _target_row(transform: PlannedTransform, source_key: Key, computed: Key | None, result: Any) -> TargetRow:
    if not isinstance(result, Mapping):
        raise ShapeError(f"The transform {transform.name} returned a {type(result).__name__}, not a dict.")
    table = transform.target
    by_name, unwritable = table.by_name, table.unwritable
    columns: dict[str, str | None] = {}
    for name, value in result.items():
        column = by_name.get(name)
        if column is None or name in unwritable:
            raise _no_such_column(transform, name, column)
        # Most values are text or null already; this is the innermost loop of a backfill.
        text = value if value is None or value.__class__ is str else _text(transform, column, source_key, value)
        if text is not None and ("\0" in text or not text.isascii()):
            _refuse_unsendable(transform, column, source_key, text)
        columns[name] = text
    claimed = None
    if computed is None:
        key = _key(transform, source_key, result)
    else:
        key = computed
        claimed = _claimed(transform, source_key, computed, columns)
    for name, text in zip(table.key, key, strict=True):
        columns.setdefault(name, text)  # as the transform spelt it: 1.00 is the same key as 1, and another text
    return TargetRow(transform.name, source_key, key, columns, claimed)


def _no_such_column(transform: PlannedTransform, name: str, column: Column | None) -> ShapeError:
    return ShapeError(
        f"The transform {transform.name} returns the column {name}, which "
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
        f"The transform {transform.name} returns another {', '.join(names)} than its key= for {list(source_key)}.",
        "Make them agree, or leave key= out.",
    )


def _key(transform: PlannedTransform, source_key: Key, result: Mapping[str, Value]) -> Key:
    table = transform.target
    missing = [name for name in table.key if name not in result]
    if missing:
        raise ShapeError(
            f"The transform {transform.name} returns no {', '.join(missing)}, which is in the primary key of "
            f"{table.name}."
        )
    try:
        key = key_of(result, table.key, table.by_name)
    except (TypeError, ValueError, ArithmeticError):
        raise no_key(transform, source_key) from None
    for name, text in zip(table.key, key, strict=True):
        _refuse_unsendable(transform, table.by_name[name], source_key, text)
    return key


def no_key(transform: PlannedTransform, source_key: Key) -> TransformError:
    """For a row without a key that its table can hold."""
    return TransformError(
        f"The transform {transform.name} returns no usable key for {list(source_key)}: a column of it is null or of "
        "the wrong form."
    )


def _text(transform: PlannedTransform, column: Column, source_key: Key, value: Value) -> str | None:
    try:
        text = to_text(value, column.kind)
        return None if text is None else str.__str__(text)  # of a subclass of str, the text alone
    except (TypeError, ValueError, ArithmeticError):
        raise TransformError(
            f"The transform {transform.name} returns a {type(value).__name__} for {transform.target.name}."
            f"{column.name} ({column.type}), which cannot be written, for {list(source_key)}."
        ) from None


def _refuse_unsendable(transform: PlannedTransform, column: Column, source_key: Key, text: str) -> None:
    """No column of any type can hold these, and the driver raises at them: in a batch, that says nothing about whose.

    JSON escapes both, so ``as_json`` gives them where Postgres held a document that it could not have held as text.
    """
    if "\0" in text:
        found = "a NUL character"
    else:
        try:
            text.encode()
        except UnicodeEncodeError:
            found = "half of a surrogate pair"
        else:
            return
    raise TransformError(
        f"The transform {transform.name} returns text with {found} for {transform.target.name}.{column.name}, which "
        f"Postgres cannot hold, for {list(source_key)}.",
        "Mend the transform or the row.",
    )


def _where(error: BaseException) -> str:
    """The line of the author's code that raised: no value, only the place."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    code = traceback.tb_frame.f_code
    return f" at {code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}"
