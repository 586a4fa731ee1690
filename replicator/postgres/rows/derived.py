"""``f`` for many rows: each target key in the form that the target's own equality has."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from replicator.core.pace import Pace
from replicator.core.selects import Select, SelectedKey
from replicator.core.tables import Column, Key, Row
from replicator.errors import TransformError
from replicator.mapping.derive import TargetRow, computed_key, derive, no_key, other_key
from replicator.mapping.plan import PlannedTransform, Source
from replicator.postgres.rows.given import GivenColumns
from replicator.postgres.rows.keys import Asked, ask_keys
from replicator.postgres.rows.sql_derivation import select_keys, select_rows
from replicator.postgres.session.connect import Connection


@dataclass(slots=True)
class Derived:
    """What one source key gives."""

    rows: list[TargetRow] = field(default_factory=list)
    error: TransformError | None = None
    """Why nothing can be said."""
    gone: Key | None = None
    """The target key that follows from the source key, where there must be no row of it."""


async def derive_all(
    connection: Connection,
    transform: PlannedTransform,
    source: Source,
    rows: Mapping[Key, Row | None],
    given: GivenColumns,
    *,
    runs_on: Connection | None = None,
) -> dict[Key, Derived]:
    """Run a transform on rows; None stands for a row that is gone.

    :param connection: leads to the target.
    :param given: the columns that rows of the target are given.
    :param runs_on: another connection there, for SQL transforms.
    :raises MigrationError: as ``derive``.
    """
    server = runs_on or connection
    given_by = await derive_rows(server, transform, source, {k: r for k, r in rows.items() if r is not None})
    found = {key: _derived(given_by.get(key, [])) for key in rows}
    without = [key for key, each in found.items() if not each.rows and each.error is None]
    if without and transform.key is not None and not transform.remembers:
        # Where ``key=`` fails, no row can have been written under that source key, and none is to be deleted. Else a
        # bad row would stay in quarantine when it is gone, and a row that gives nothing would go there.
        for key, target in (await _spelt_keys(server, transform, source, without)).items():
            found[key].gone = target
    await _completed(connection, transform, found, given)
    await _in_form(connection, transform, found)
    return found


async def derive_rows(
    connection: Connection, transform: PlannedTransform, source: Source, rows: Mapping[Key, Row]
) -> dict[Key, list[TargetRow] | TransformError]:
    """What a transform gives for each row, with its keys as they are spelt; ``connection`` leads to the target.

    :raises DatabaseError: the SELECT of an SQL transform fails whatever the row.
    """
    if isinstance(transform.function, Select):
        return await select_rows(connection, transform, source, rows)
    found: dict[Key, list[TargetRow] | TransformError] = {}
    pace = Pace()
    for key, row in rows.items():
        await pace.step()
        try:
            found[key] = derive(transform, source, key, row)
        except TransformError as error:
            found[key] = error
    return found


async def _completed(
    connection: Connection, transform: PlannedTransform, found: Mapping[Key, Derived], given: GivenColumns
) -> None:
    """What a row leaves out and others give is its default, for whoever writes or compares it."""
    table = transform.target
    rows = iter(await given.complete(connection, table, (row for each in found.values() for row in each.rows)))
    for each in found.values():
        completed = [next(rows) for _ in each.rows]
        each.rows = [row for row in completed if not isinstance(row, TransformError)]
        each.error = each.error or next((row for row in completed if isinstance(row, TransformError)), None)
        if each.error is not None:
            each.rows = []


async def computed_keys(
    connection: Connection, transform: PlannedTransform, source: Source, keys: Iterable[Key]
) -> dict[Key, Key]:
    """The target keys that follow from source keys; those for which ``key=`` fails are left out."""
    found = {
        key: Derived(gone=target) for key, target in (await _spelt_keys(connection, transform, source, keys)).items()
    }
    await _in_form(connection, transform, found)
    return {key: each.gone for key, each in found.items() if each.gone is not None}


async def _spelt_keys(
    connection: Connection, transform: PlannedTransform, source: Source, keys: Iterable[Key]
) -> dict[Key, Key]:
    if isinstance(transform.key, SelectedKey):
        selected = await select_keys(connection, transform, source, keys)
        return {key: each for key, each in selected.items() if isinstance(each, tuple)}
    found: dict[Key, Key] = {}
    for key in keys:
        with suppress(TransformError):
            found[key] = computed_key(transform, source, key)
    return found


def _derived(given: list[TargetRow] | TransformError) -> Derived:
    return Derived(error=given) if isinstance(given, TransformError) else Derived(given)


async def _in_form(connection: Connection, transform: PlannedTransform, found: Mapping[Key, Derived]) -> None:
    """Bring the keys to their form, where Python cannot: the target says which texts are one key."""
    table = transform.target
    columns = [table.by_name[name] for name in table.key]
    if not any(column.form.asked for column in columns):
        return
    rows = [row for each in found.values() for row in each.rows]
    spelt = {row.key for row in rows} | {row.claimed for row in rows if row.claimed is not None}
    asked = await ask_keys(connection, columns, spelt | {each.gone for each in found.values() if each.gone is not None})
    for key, each in found.items():
        each.gone = None if each.gone is None else asked.key_or_none(columns, each.gone)
        try:
            each.rows = [_row_in_form(transform, key, row, columns, asked) for row in each.rows]
        except ValueError:
            each.rows, each.error = [], no_key(transform, key)
        except TransformError as error:
            each.rows, each.error = [], error


def _row_in_form(
    transform: PlannedTransform, source_key: Key, row: TargetRow, columns: Sequence[Column], asked: Asked
) -> TargetRow:
    key = asked.key(columns, row.key)
    if row.claimed is not None and asked.key(columns, row.claimed) != key:
        raise other_key(transform, source_key, transform.target.key)
    return replace(row, key=key, claimed=None)
