"""Where the tables of a migration are found: a cutover may have renamed them, and moved them to another schema."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from replicator.core.tables import Name


@dataclass(frozen=True)
class NameMap:
    """The tables that are not found where the migration's SQL names them. Mostly none."""

    moved: Mapping[Name, Name] = field(default_factory=dict)
    """By the name in the migration, the name now."""

    @cached_property
    def _called(self) -> Mapping[Name, Name]:
        return {now: called for called, now in self.moved.items()}

    def schema(self, schema: str) -> str:
        """Where the tables of a schema are found. They move together."""
        return next((now.schema for called, now in self.moved.items() if called.schema == schema), schema)

    def now(self, name: Name) -> Name:
        """The name of a table now."""
        return self.moved.get(name, name)

    def called(self, schema: str, found: Name) -> str | None:
        """What the migration calls a table of its schema; None when what is found there is none of that schema."""
        if (called := self._called.get(found)) is not None:
            return called.table if called.schema == schema else None
        return found.table if found.schema == schema else None
