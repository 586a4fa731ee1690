"""The one topological sort: parents before their children, whatever refers to whatever in a circle."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TypeVar

from replicator.core.tables import Name, Table

T = TypeVar("T", bound=Hashable)


def parents_first(
    parents: Mapping[T, Iterable[T]], loose: Callable[[T, T], bool] = lambda _child, _parent: False
) -> list[T]:
    """Order what is given, each after its parents; as it was given where they do not decide.

    A circle is broken at one of its references: where ``loose`` says that the child can be written without that parent
    for a while, otherwise anywhere.

    :param parents: by child. A parent that is not in this mapping does not count, and neither does the child itself.
    """
    graph = {
        child: {each: None for each in found if each in parents and each != child} for child, found in parents.items()
    }
    while True:
        try:
            sorter = TopologicalSorter(dict.fromkeys(graph, ()))  # all at first, so that the order given counts
            for child, found in graph.items():
                sorter.add(child, *found)
            return list(sorter.static_order())
        except CycleError as error:
            circle = [(child, parent) for parent, child in pairwise(error.args[1])]
            child, parent = next((each for each in circle if loose(*each)), circle[0])
            del graph[child][parent]


def by_foreign_keys(tables: Iterable[Table]) -> list[Table]:
    """Order tables so that a foreign key's parent comes before its child.

    A circle is broken where a child can be written first: its foreign key waits for the end of the transaction, or its
    column is NULL for a while. Broken elsewhere, rows that refer to each other could not be written in one batch.
    """
    by_name = {table.name: table for table in tables}

    def loose(child: Name, parent: Name) -> bool:
        between = [each for each in by_name[child].foreign_keys if each.parent == parent]
        return all(each.deferrable or each.detachable for each in between)

    order = parents_first(
        {name: [each.parent for each in table.foreign_keys] for name, table in by_name.items()}, loose
    )
    return [by_name[name] for name in order]
