"""Histories of the seven old tables, as data: what the application did, and what the engine did in between."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from hypothesis import strategies as st
from psycopg import sql

from tests import old_rows

KEYS: Final[Mapping[str, tuple[str, tuple[Any, ...]]]] = {
    "requests": ("id", ("r1", "r2", "R3", "é4", "00000000-0000-0000-0000-000000000005")),
    "settings": ("key", ("party_name", "target_device_id", "x")),
    "admins": ("id", ("a1", "a2", "a3")),
    "spotify_auth": ("id", (1,)),
    "event_settings": ("id", (1,)),
    "oauth_sessions": ("state", ("s1",)),
    "notifications": ("id", ("n1",)),
}
"""The key column of each table and the few keys in use: few, so that histories meet."""

USERNAMES: Final = ("ann", "bob", "cy", "")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Long:
    """A text that is stored out of line, and left out of the log where it does not change."""

    number: int

    def sql(self) -> sql.Composable:
        """It, spelt shorter."""
        text = sql.SQL("(SELECT string_agg(md5({} || i::text), '') FROM generate_series(1, 200) AS i)")
        return text.format(sql.Literal(str(self.number)))


# ---- what a transaction does


@dataclass(frozen=True)
class Insert:
    table: str
    row: Row


@dataclass(frozen=True)
class Update:
    table: str
    key: Any
    changes: Row


@dataclass(frozen=True)
class Delete:
    table: str
    key: Any


@dataclass(frozen=True)
class Rekey:
    """Give a row another key, if that is free."""

    table: str
    key: Any
    new: Any


@dataclass(frozen=True)
class Truncate:
    tables: Sequence[str]


@dataclass(frozen=True)
class Swap:
    """Two admins exchange their user names, which are unique."""

    one: str
    other: str


@dataclass(frozen=True)
class Nested:
    """A savepoint and what follows it; taken back unless ``kept``."""

    operations: Sequence["Operation"]
    kept: bool


Operation = Insert | Update | Delete | Rekey | Truncate | Swap | Nested

INSERT: Final = sql.SQL("INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING")
UPDATE: Final = sql.SQL("UPDATE {table} SET {changes} WHERE {column} = {key}")
DELETE: Final = sql.SQL("DELETE FROM {table} WHERE {column} = {key}")
REKEY: Final = sql.SQL(
    "UPDATE {table} SET {column} = {new} WHERE {column} = {key} "
    "AND NOT EXISTS (SELECT FROM {table} WHERE {column} = {new})"
)
SWAP: Final = sql.SQL("""
    DO $$
    DECLARE names text[] := array(SELECT username FROM admins WHERE id IN ({one}, {other}) ORDER BY id);
    BEGIN
        IF cardinality(names) = 2 THEN
            UPDATE admins SET username = 'changing' WHERE id = least({one}, {other});
            UPDATE admins SET username = names[1] WHERE id = greatest({one}, {other});
            UPDATE admins SET username = names[2] WHERE id = least({one}, {other});
        END IF;
    END $$
""")


def statements(operation: Operation) -> list[sql.SQL | sql.Composed]:
    """The SQL of an operation; what finds no row, or finds a key taken, does nothing."""
    match operation:
        case Insert(table, row):
            names, values = _listed(sql.Identifier, row), _listed(_value, row.values())
            return [INSERT.format(table=sql.Identifier(table), names=names, values=values)]
        case Update(table, key, changes):
            listed = sql.SQL(", ").join([
                sql.SQL("{} = {}").format(sql.Identifier(name), _value(value)) for name, value in changes.items()
            ])  # fmt: skip
            return [UPDATE.format(**_row(table, key), changes=listed)]
        case Delete(table, key):
            return [DELETE.format(**_row(table, key))]
        case Rekey(table, key, new):
            return [REKEY.format(**_row(table, key), new=sql.Literal(new))]
        case Truncate(tables):
            return [sql.SQL("TRUNCATE {}").format(_listed(sql.Identifier, tables))]
        case Swap(one, other):
            return [SWAP.format(one=sql.Literal(one), other=sql.Literal(other))]
        case Nested(operations, kept):
            inner = [statement for each in operations for statement in statements(each)]
            end = "RELEASE SAVEPOINT nested" if kept else "ROLLBACK TO SAVEPOINT nested"
            return [sql.SQL("SAVEPOINT nested"), *inner, sql.SQL(end)]


def _value(value: Any) -> sql.Composable:
    return value.sql() if isinstance(value, Long) else sql.Literal(value)


def _row(table: str, key: Any) -> dict[str, sql.Composable]:
    return {"table": sql.Identifier(table), "column": sql.Identifier(KEYS[table][0]), "key": sql.Literal(key)}


def _listed(kind: Callable[[Any], sql.Composable], parts: Any) -> sql.Composed:
    return sql.SQL(", ").join([kind(part) for part in parts])


# ---- steps


@dataclass(frozen=True)
class Work:
    """The application does something in one of its sessions, and leaves the transaction open."""

    session: int
    operations: Sequence[Operation]


End = Literal["commit", "rollback", "hidden"]
"""``hidden``: the commit is in the log, and streamed, but no snapshot sees it yet (invariant I4)."""


@dataclass(frozen=True)
class Finish:
    """It ends that transaction, if one is open."""

    session: int
    end: End


@dataclass(frozen=True)
class Show:
    """All hidden commits become visible."""


@dataclass(frozen=True)
class Deliver:
    """The stream brings all that is committed; nothing of it is applied."""


@dataclass(frozen=True)
class Apply:
    """The applier takes some steps: a piece taken, a source read again, the target committed, the flush confirmed."""

    steps: int


@dataclass(frozen=True)
class Follow:
    """The stream brings all that is committed, and the applier applies it."""


@dataclass(frozen=True)
class Plan:
    """The backfill plans some chunks."""

    steps: int


@dataclass(frozen=True)
class Copy:
    """One copier takes some steps: chunk taken, window opened, snapshot taken, rows read, rows written, committed."""

    copier: int
    steps: int


@dataclass(frozen=True)
class CopyTo:
    """One copier goes on to the next point of a kind, such as ``read`` or ``read requests``, or to the end."""

    copier: int
    point: str


@dataclass(frozen=True)
class Restart:
    """The daemon dies where it is, and a new one starts."""


Step = Work | Finish | Show | Deliver | Apply | Follow | Plan | Copy | CopyTo | Restart


@dataclass(frozen=True)
class History:
    """What was there before the slot; what happened during the backfill; and after it, with all constraints built."""

    before: Sequence[Operation]
    during: Sequence[Step]
    after: Sequence[Step] = field(default_factory=list)


def commit(*operations: Operation, session: int = 0, end: End = "commit") -> list[Step]:
    """One transaction."""
    return [Work(session, operations), Finish(session, end)]


# ---- strategies

_oauth_sessions: Final = st.fixed_dictionaries({"code_verifier": old_rows.some_text})
_notifications: Final = st.fixed_dictionaries(
    {"type": st.sampled_from(["approval", "rejection", "info"]), "message": old_rows.texts}
)


def _with_long(rows: st.SearchStrategy[dict[str, Any]], column: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(rows, st.sampled_from([None, None, Long(1), Long(2)])).map(
        lambda each: each[0] | {column: each[1]} if each[1] else each[0]
    )


ROWS: Final[Mapping[str, st.SearchStrategy[dict[str, Any]]]] = {
    "requests": _with_long(old_rows.requests, "rejection_reason"),
    "settings": _with_long(old_rows.settings, "value"),
    "admins": st.tuples(old_rows.admins, st.sampled_from(USERNAMES)).map(lambda each: each[0] | {"username": each[1]}),
    "spotify_auth": old_rows.spotify_auth,
    "event_settings": _with_long(old_rows.event_settings, "message_text"),
    "oauth_sessions": _oauth_sessions,
    "notifications": _notifications,
}

_tables: Final = st.sampled_from(["requests"] * 6 + ["admins"] * 4 + ["settings"] * 2 + [*KEYS])


def _keys(table: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(KEYS[table][1])


def _rows(table: str) -> st.SearchStrategy[dict[str, Any]]:
    column = KEYS[table][0]
    return st.tuples(ROWS[table], _keys(table)).map(lambda each: {**each[0], column: each[1]})


@st.composite
def _changes(draw: st.DrawFn, table: str) -> dict[str, Any]:
    """A few columns of a row, the key not among them."""
    row = {name: value for name, value in draw(ROWS[table]).items() if name != KEYS[table][0]}
    names = draw(st.lists(st.sampled_from(sorted(row)), min_size=1, max_size=3, unique=True))
    return {name: row[name] for name in names}


inserts: Final = _tables.flatmap(lambda table: st.builds(Insert, st.just(table), _rows(table)))
updates: Final = _tables.flatmap(lambda table: st.builds(Update, st.just(table), _keys(table), _changes(table)))
deletes: Final = _tables.flatmap(lambda table: st.builds(Delete, st.just(table), _keys(table)))
rekeys: Final = st.sampled_from(["requests", "requests", "admins", "settings"]).flatmap(
    lambda table: st.builds(Rekey, st.just(table), _keys(table), _keys(table))
)
removals: Final = st.sampled_from(["requests", "requests", "admins"]).flatmap(
    lambda table: (
        st.builds(Delete, st.just(table), _keys(table)) | st.builds(Rekey, st.just(table), _keys(table), _keys(table))
    )
)
truncates: Final = st.builds(Truncate, st.lists(st.sampled_from([*KEYS]), min_size=1, max_size=4, unique=True))
swaps: Final = st.builds(Swap, _keys("admins"), _keys("admins"))
plain: Final = st.one_of(inserts, updates, deletes, rekeys, removals, swaps, truncates)
nested: Final = st.builds(Nested, st.lists(plain, min_size=1, max_size=3), st.booleans())
operations: Final = st.lists(st.one_of(plain, nested), min_size=1, max_size=6)

_sessions: Final = st.integers(0, 1)
_few: Final = st.integers(1, 6)
_points: Final = st.sampled_from(["read", "snapshot", "read", "write", "open", "chunk"])
_ends: Final = st.sampled_from(["commit"] * 5 + ["rollback"])
_hidden_ends: Final = st.sampled_from(["commit"] * 2 + ["hidden"] * 3)


def _transactions(
    ends: st.SearchStrategy[Any], work: st.SearchStrategy[list[Any]] = operations
) -> st.SearchStrategy[list[Step]]:
    return st.builds(lambda session, work, end: [Work(session, work), Finish(session, end)], _sessions, work, ends)


@st.composite
def _meanwhile(draw: st.DrawFn, transactions: st.SearchStrategy[list[Step]]) -> list[Step]:
    """A copier has come somewhere in its chunk when something happens, and is followed, before it goes on."""
    copier = draw(_sessions)
    before = CopyTo(copier, draw(_points)) if draw(st.booleans()) else Copy(copier, draw(_few))
    followed = Follow() if draw(st.integers(0, 3)) else Deliver()
    return [before, *draw(transactions), followed, Copy(copier, draw(_few))]


def _single(*, hidden: bool, copying: bool) -> st.SearchStrategy[list[Step]]:
    ends = st.one_of(_ends, _hidden_ends) if hidden else _ends
    kinds: list[st.SearchStrategy[Step]] = [
        st.builds(Follow),
        st.builds(Deliver),
        st.builds(Apply, _few),
        st.builds(Work, _sessions, operations),
        st.builds(Finish, _sessions, ends),
        st.builds(Restart),
    ]
    if copying:
        kinds += [st.builds(Copy, _sessions, _few), st.builds(Plan, _few)]
    if hidden:
        kinds += [st.builds(Show)]
    return st.one_of(kinds).map(lambda step: [step])


def steps(*, hidden: bool, copying: bool) -> st.SearchStrategy[list[Step]]:
    """Steps of application and engine, each transaction whole or in parts."""
    transactions = _transactions(st.one_of(_ends, _hidden_ends) if hidden else _ends)
    parts = [_single(hidden=hidden, copying=copying), transactions]
    if copying:
        parts += [_meanwhile(transactions)]
    several = st.lists(st.one_of(parts), max_size=8)
    # three of them, so that many are long and all can shrink to nothing
    return _joined(st.tuples(several, several, several).map(lambda lists: [part for each in lists for part in each]))


def _joined(parts: st.SearchStrategy[list[list[Step]]]) -> st.SearchStrategy[list[Step]]:
    return parts.map(lambda each: [step for part in each for step in part])


@st.composite
def _before(draw: st.DrawFn) -> list[Operation]:
    """Most keys have a row before it all begins."""
    return [
        Insert(table, {**draw(ROWS[table]), column: key})
        for table, (column, keys) in KEYS.items()
        for key in keys
        if draw(st.integers(0, 3))
    ]


def histories(*, hidden: bool) -> st.SearchStrategy[History]:
    """Whole histories."""
    return st.builds(History, _before(), steps(hidden=hidden, copying=True), steps(hidden=hidden, copying=False))


def removing_histories(*, hidden: bool) -> st.SearchStrategy[History]:
    """Those in which rows go while chunks are copied, and little else happens."""
    ends: st.SearchStrategy[End] = st.just("hidden" if hidden else "commit")
    transactions = _transactions(ends, st.lists(removals, min_size=2, max_size=5))
    return st.builds(History, _before(), _joined(st.lists(_meanwhile(transactions), min_size=3, max_size=8)))
