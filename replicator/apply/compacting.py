"""Compacts changes in commit order to the last state of each source key, and collects what must be read again."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from replicator.apply.net_changes import NetChanges, Relations, TableState
from replicator.core.changes import Change, Image
from replicator.core.equality import needs_asking
from replicator.core.tables import Column, Key, Row, Table
from replicator.errors import ProtocolError
from replicator.mapping.plan import Dependency, Plan, Source
from replicator.postgres.rows.keys import Asked, to_ask
from replicator.postgres.session.connect import Connection
from replicator.postgres.wire.slots import AGAIN
from replicator.values import PARSERS, Missing

PARAMETER = re.compile(r"%\(([^)]+)\)s")
"""As psycopg takes parameters by name."""

IDENTITY = (
    "Its replica identity has changed, its key is too long for the log, or is NaN or infinity, which wal2json does not "
    f"tell. Changes may be missing. {AGAIN}"
)


def compact(
    changes: Iterable[Change],
    plan: Plan,
    relations: Relations,
    asked: Asked,
    *,
    nulls_are_ambiguous: bool,
    dated: bool = False,
) -> NetChanges:
    """Reduce changes to a NetChanges.

    :param asked: the forms of what ``to_ask`` gives.
    :param dated: note when the application changed each source key.
    :raises ProtocolError: when a change lacks its key.
    """
    net = NetChanges(asked=asked)
    for change in changes:
        table = relations[change.relation]
        if table is None:
            continue
        name = table.declared
        if not change.own:
            net.counts[name, change.operation] += 1
        at = change.committed_at if dated and not change.own else None
        for dependency in plan.dependencies.get(name, ()):
            mark(net, plan, dependency, table, change, at)
        source = plan.table_source(name)
        if source is not None:
            _note(net, source, table, change, at, nulls_are_ambiguous=nulls_are_ambiguous)
    return net


def _note(
    net: NetChanges, source: Source, table: Table, change: Change, at: datetime | None, *, nulls_are_ambiguous: bool
) -> None:
    state = net.tables.setdefault(source.name, TableState())
    dirty = net.dirty.setdefault(source.name, set())
    if change.operation == "truncate":
        state.truncated = True  # the log names none of its rows: all that they gave goes. mutation: truncate
        net.dates.note_all(source.name, at)
        state.rows.clear()
        state.moves.clear()
        dirty.clear()
        if change.relation != (table.name.schema, table.name.table):
            net.dirty_all.add(source.name)  # one partition: which rows it held, the log does not say
        return
    old_key = _image_key(net, table, change.old) if change.old else None
    if change.operation == "delete":
        if old_key is None:
            raise ProtocolError(f"A deleted row of {table.name} came without its key.", IDENTITY)
        _note_overwriting(net, source, old_key, change)
        net.dates.note(source.name, old_key, at)
        _put(state, dirty, old_key, None)
        return
    new_key = _image_key(net, table, _now(change)) or old_key
    if new_key is None:
        raise ProtocolError(f"A row of {table.name} came without its key.", IDENTITY)
    _note_overwriting(net, source, new_key, change)
    net.dates.note(source.name, new_key, at)
    # What the old key gave has no row any more: it would stay on the target. mutation: key-change-leaves
    if old_key is not None and old_key != new_key:
        net.dates.note(source.name, old_key, at)
        _put(state, dirty, old_key, None)
        state.moves[new_key] = state.moves.pop(old_key, old_key)
    row = complete_row(table, change, nulls_are_ambiguous=nulls_are_ambiguous)
    if row is None:
        state.rows.pop(new_key, None)
        dirty.add(new_key)
    else:
        _put(state, dirty, new_key, row)
        if change.own:
            state.copies.setdefault(new_key, []).append(row)  # what it gave is here already. mutation: copied-over


def _note_overwriting(net: NetChanges, source: Source, key: Key, change: Change) -> None:
    if not change.own:
        net.overwritten.discard((source.name, key))
    elif net.dates.of(source.name, key) is not None:
        net.overwritten.add((source.name, key))


def _put(state: TableState, dirty: set[Key], key: Key, row: Row | None) -> None:
    state.rows[key] = row
    dirty.discard(key)


def _now(change: Change) -> Image:
    """The row as it is now, as far as the log tells: what it leaves out of the new row is as in the old one."""
    told = {name: text for name, text in (change.new or {}).items() if not isinstance(text, Missing)}
    return {**(change.old or {}), **told}


def complete_row(table: Table, change: Change, *, nulls_are_ambiguous: bool) -> Row | None:
    """The new row with Python values; None when the log left a value out and the old row has not got it either."""
    new, old = change.new or {}, change.old or {}
    row: Row = {}
    for column in table.columns:
        name = column.name
        text = new.get(name, Missing.UNCHANGED)
        if text is Missing.UNCHANGED:
            text = old.get(name, Missing.UNCHANGED)
        if text is None:
            # wal2json writes NULL for NaN and infinity: the row is read again. mutation: ambiguous-null
            if nulls_are_ambiguous and column.kind in ("float", "numeric"):
                return None
            row[name] = None
        elif isinstance(text, str):
            row[name] = PARSERS[column.kind](text)
        else:
            return None
    return row


def _told(table: Table, change: Change) -> frozenset[str]:
    """The columns whose old values an update would have told, had they changed; none of a partition: nobody looks."""
    own = change.relation == (table.name.schema, table.name.table)
    return frozenset(table.identity_columns if own else ())


def mark(
    net: NetChanges, plan: Plan, dependency: Dependency, table: Table, change: Change, at: datetime | None
) -> None:
    """Mark the keys of a query as dirty that hang on a changed row; ``at``: when the application changed it."""
    if dependency.everything or change.operation == "truncate":
        net.dates.note_all(dependency.source, at)
        net.dirty_all.add(dependency.source)
        net.dirty.pop(dependency.source, None)
        return
    if dependency.lookup is not None:
        _mark_lookup(net, dependency, change, at, _told(table, change))
        return
    columns = [table.by_name[name] for name in dependency.columns or ()]
    _mark_keys(net, plan.sources[dependency.source], columns, change, at)


def _mark_keys(net: NetChanges, source: Source, columns: Sequence[Column], change: Change, at: datetime | None) -> None:
    """The keys before and after. What an update leaves out of the new row, the old row has, or it may be any key."""
    keys: set[Key] = set()
    if change.old is not None:
        if not all(column.name in change.old for column in columns):
            raise ProtocolError(f"A changed row of {'.'.join(change.relation)} came without its identity.", IDENTITY)
        keys |= _dependency_key(net, source, columns, change.old)
    if change.new is not None:
        now = _now(change)
        if not any(isinstance(now.get(each.name, Missing.UNCHANGED), Missing) for each in columns):
            keys |= _dependency_key(net, source, columns, now)
        else:
            net.dates.note_all(source.name, at)
            net.dirty_all.add(source.name)
            net.dirty.pop(source.name, None)
    if source.name not in net.dirty_all:
        net.dirty.setdefault(source.name, set()).update(keys)
    for key in keys if at is not None else ():
        net.dates.note(source.name, key, at)


def _mark_lookup(
    net: NetChanges, dependency: Dependency, change: Change, at: datetime | None, told: frozenset[str]
) -> None:
    """Look up the keys that the row concerned before and concerns now; what the log leaves out may be any key."""
    wanted = set(PARAMETER.findall(dependency.lookup or ""))
    same = change.operation == "update" and change.old is None and told.issuperset(wanted)
    before = [] if change.operation == "insert" or same else [change.old or {}]
    after = [] if change.operation == "delete" else [_now(change)]
    for image in before + after:
        found = {name: text for name in wanted if not isinstance(text := image.get(name, Missing.UNCHANGED), Missing)}
        if len(found) < len(wanted):
            net.dates.note_all(dependency.source, at)
            net.dirty_all.add(dependency.source)
            return
        lookup = dependency, tuple(sorted(found.items()))
        known = net.lookups.get(lookup)
        net.lookups[lookup] = known if at is None else max(at, known or at)


def _dependency_key(net: NetChanges, source: Source, columns: Sequence[Column], image: Image) -> set[Key]:
    """Empty when a column is NULL, or no value of the key's type: no row of the query can hang on it."""
    keys = [source.by_name[name] for name in source.key]
    key = net.asked.led_to([each.form for each in columns], keys, _texts(columns, image))
    return set() if key is None else {key}


def _image_key(net: NetChanges, table: Table, image: Image) -> Key | None:
    columns = [table.by_name[name] for name in table.key]
    return net.asked.led_to([each.form for each in columns], columns, _texts(columns, image))


def _texts(columns: Iterable[Column], image: Image) -> list[str | None]:
    """What the log says of some columns; None where it says NULL or nothing."""
    found = (image.get(column.name) for column in columns)
    return [text if isinstance(text, str) else None for text in found]


async def ask(changes: Sequence[Change], plan: Plan, relations: Relations, reader: Connection) -> Asked:
    """Ask the source for the forms of the keys in these changes, where Python does not know them."""
    asked, ways = Asked(), {name: _leading(plan, table) for name, table in plan.watched.items()}
    for name, pairs in ways.items():
        for column, key in pairs:
            images = (
                image
                for each in changes
                if (table := relations[each.relation]) is not None and table.declared == name
                for image in (each.old, each.new)
            )
            texts = [text for image in images for text in _texts([column], image or {})]
            await asked.ask(reader, key, to_ask(column.form, key, texts))
    return asked


def _leading(plan: Plan, table: Table) -> list[tuple[Column, Column]]:
    """Which columns of a table's changed rows lead to which columns of keys whose forms must be asked for."""
    ways: list[tuple[Column, Column]] = []
    if plan.table_source(table.declared) is not None:
        ways += [(table.by_name[name], table.by_name[name]) for name in table.key]
    for dependency in plan.dependencies.get(table.declared, ()):
        source = plan.sources[dependency.source]
        ways += [
            (table.by_name[name], source.by_name[key])
            for name, key in zip(dependency.columns or (), source.key, strict=False)
        ]
    return [(column, key) for column, key in ways if needs_asking(column.form, key.form)]
