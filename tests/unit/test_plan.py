"""A migration that does not fit its tables is refused at the start, with the transform and the column by name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from replicator import ALL, Lookup, Migration, Query, Row
from replicator.core.ordering import by_foreign_keys
from replicator.core.tables import Column, ForeignKey, Name, Table
from replicator.errors import MigrationError, ShapeError, TransformError
from replicator.mapping.derive import TargetRow, derive
from replicator.mapping.plan import Plan, resolve
from replicator.values import Kind

KINDS: dict[str, Kind] = {"id": "integer", "uid": "uuid", "document": "json", "name": "text"}


def table(schema: str, name: str, *columns: str, key: tuple[str, ...] = ("id",), **others: object) -> Table:
    described = tuple(
        Column(name=each, type=KINDS.get(each, "text"), type_oid=0, kind=KINDS.get(each, "text")) for each in columns
    )
    facts = {"identity_columns": key, **others}
    return Table(name=Name(schema=schema, table=name), columns=described, key=key, **facts)  # type: ignore[arg-type]


OLD = {
    "people": table("old", "people", "id", "name"),
    "pets": table("old", "pets", "id", "owner"),
    "keyless": table("old", "keyless", "name", key=()),
}
NEW = {"persons": table("new", "persons", "id", "name", "document"), "keyless": table("new", "keyless", "name", key=())}
QUERY_COLUMNS = {"query": OLD["people"].columns}


def make() -> Migration:
    return Migration("m", old="old", new="new", sql=Path("/nowhere"))


def plan_of(migration: Migration) -> Plan:
    return resolve(migration, "forward", OLD, NEW, QUERY_COLUMNS)


def one(_: Row) -> dict[str, object]:
    return {}


@pytest.mark.parametrize(
    ("source", "into", "says"),
    [
        ("people", "nothing", "transform one: there is no target table new.nothing"),
        ("nothing", "persons", "transform one: there is no source table old.nothing"),
        ("people", "keyless", "transform one: the target table new.keyless has no primary key"),
        ("keyless", "persons", "transform one: the source table old.keyless has no primary key"),
        (Query("SELECT 1", key=[], depends_on={"people": ALL}), "persons", "the query query has no key"),
        (Query("SELECT 1", key=["id"], depends_on={}), "persons", "says nothing in depends_on"),
        (Query("SELECT 1", key=["nix"], depends_on={"people": ALL}), "persons", "returns no column nix"),
        (Query("SELECT 1", key=["id"], depends_on={"nix": ALL}), "persons", "names old.nix, which does not exist"),
        (Query("SELECT 1", key=["id"], depends_on={"pets": ["nix"]}), "persons", "old.pets.nix, which does not exist"),
        (Query("SELECT 1", key=["id"], depends_on={"pets": ["owner"]}), "persons", "does not carry for a deleted row"),
        (Query("SELECT 1", key=["id"], depends_on={"pets": ["id", "owner"]}), "persons", "2 columns, the key has 1"),
    ],
)
def test_what_does_not_fit_is_named(source: str | Query, into: str, says: str) -> None:
    migration = make()
    migration.transform(source=source, into=into)(one)
    with pytest.raises(MigrationError) as refused:
        plan_of(migration)
    assert says in str(refused.value)


def test_all_problems_come_at_once() -> None:
    migration = make()
    migration.transform(source="nix", into="persons", name="first")(one)
    migration.transform(source="people", into="nix", name="second")(one)
    with pytest.raises(MigrationError, match=r"first.*second"):
        plan_of(migration)


def test_two_transforms_of_one_name() -> None:
    migration = make()
    migration.transform(source="people", into="persons")(one)
    with pytest.raises(MigrationError, match="named one"):
        migration.transform(source="pets", into="persons")(one)


def test_retiring_wants_a_reason() -> None:
    with pytest.raises(MigrationError, match="without a reason"):
        make().retire("people", because=" ")


def test_what_is_remembered() -> None:
    migration = make()
    migration.transform(source="people", into="persons", key=lambda old: old["id"], name="computed")(one)
    assert [each.remembers for each in plan_of(migration).transforms] == [False]
    migration.transform(source="pets", into="persons", key=lambda old: old["id"], name="second")(one)
    assert [each.remembers for each in plan_of(migration).transforms] == [True, True]
    other = make()
    other.transform(source="people", into="persons")(one)
    assert [each.remembers for each in plan_of(other).transforms] == [True]


def test_dependencies_by_table() -> None:
    migration = make()
    query = Query("SELECT 1", key=["id"], depends_on={"people": ["id"], "pets": Lookup("SELECT %(owner)s")})
    migration.transform(source=query, into="persons")(one)
    plan = plan_of(migration)
    assert list(plan.watched) == ["people", "pets"]
    (people,), (pets,) = plan.dependencies["people"], plan.dependencies["pets"]
    assert (people.columns, people.everything) == (("id",), False)
    assert (pets.lookup, pets.everything) == ("SELECT %(owner)s", False)


def child_of(name: str, *parents: str, loose: bool = False) -> Table:
    """A table with a foreign key to each parent; ``loose``: its columns may be NULL."""
    foreign_keys = tuple(
        ForeignKey(
            name=f"to_{parent}", columns=("id",), parent=Name(schema="new", table=parent), parent_columns=("id",),
            deferrable=False, acts=False, detachable=("id",) if loose else (),
        )
        for parent in parents
    )  # fmt: skip
    return table("new", name, "id", foreign_keys=foreign_keys)


@pytest.mark.parametrize(
    ("tables", "order"),
    [
        ([child_of("c", "b"), child_of("b", "a"), child_of("a")], "abc"),
        ([child_of("d"), child_of("c", "a"), child_of("b"), child_of("a", "elsewhere")], "dbac"),
        ([child_of("a", "a")], "a"),
        # A circle is broken where a row can be written before its parent, whatever was declared first.
        ([child_of("teams", "players", loose=True), child_of("players", "teams")], ["teams", "players"]),
        ([child_of("players", "teams"), child_of("teams", "players", loose=True)], ["teams", "players"]),
        ([child_of("a", "c"), child_of("b", "a"), child_of("c", "b", loose=True), child_of("d", "c")], "cadb"),
        ([child_of("a", "b"), child_of("b", "a")], "ba"),
        ([child_of("a", "b", "c"), child_of("b", "a", loose=True), child_of("c", "a", loose=True)], "bca"),
    ],
)
def test_parents_come_first_and_a_circle_does_no_harm(tables: list[Table], order: Sequence[str]) -> None:
    assert [each.name.table for each in by_foreign_keys(tables)] == list(order)


def test_a_long_line_of_parents_does_no_harm() -> None:
    tables = [child_of(f"t{number}", f"t{number + 1}") for number in range(2000)]
    assert by_foreign_keys(tables) == tables[::-1]


# ---- what a transform may return


def derived(result: Any, *, key: object = None) -> list[TargetRow]:
    migration = make()
    key_function = None if key is None else lambda _: key
    returns: Callable[[Row], Any] = lambda _: result  # noqa: E731  typed, unlike a lambda in place
    migration.transform(source="people", into="persons", key=key_function, name="t")(returns)
    plan = plan_of(migration)
    return derive(plan.transforms[0], plan.sources["people"], ("7",), {"id": 7, "name": "a secret"})


def test_one_several_or_no_row() -> None:
    row = {"id": 1, "name": "x"}
    assert derived(None) == []
    assert len(derived([row, {**row, "id": 2}])) == 2
    (found,) = derived({"id": 1, "document": {"a": [1]}})
    assert (found.key, found.columns) == (("1",), {"id": "1", "document": '{"a": [1]}'})


def test_the_key_may_be_left_to_the_key_function() -> None:
    (found,) = derived({"name": "x"}, key=5)
    assert (found.key, found.columns["id"]) == (("5",), "5")


@pytest.mark.parametrize(
    ("result", "key", "says"),
    [
        ({"id": 1, "nix": 2}, None, "transform t returns the column nix, which new.persons does not have"),
        ({"name": "x"}, None, "transform t returns no id, which is in the primary key of new.persons"),
        (7, None, "transform t returned a int, not a dict"),
        ({"name": "x"}, (1, 2), "key= of the transform t returns 2 values"),
    ],
)
def test_wrong_shape_is_the_authors_mistake(result: object, key: object, says: str) -> None:
    with pytest.raises(ShapeError) as refused:
        derived(result, key=key)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("result", "key", "says"),
    [
        ({"id": None}, None, "no usable key"),
        ({"id": 1, "document": {"a": object()}}, None, "returns a dict for new.persons.document"),
        ({"id": 1, "name": {"a": 1}}, None, "cannot be written"),
        ({"id": 1}, 2, "returns another id than its key="),
    ],
)
def test_a_bad_row_is_the_rows_mistake_and_shows_no_value(result: object, key: object, says: str) -> None:
    with pytest.raises(TransformError) as refused:
        derived(result, key=key)
    assert says in str(refused.value)
    assert "['7']" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_raising_transform_is_named_with_its_line() -> None:
    migration = make()

    @migration.transform(source="people", into="persons")
    def bad(old: Row) -> dict[str, object]:
        raise KeyError(old["name"])

    plan = plan_of(migration)
    with pytest.raises(TransformError) as refused:
        derive(plan.transforms[0], plan.sources["people"], ("7",), {"id": 7, "name": "a secret"})
    assert "bad raised KeyError for people ['7'] at test_plan.py:" in str(refused.value)
    assert "secret" not in str(refused.value)
