"""The application of either schema, which sells tickets too; under the names that the tables have, before and after."""

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import psycopg

from replicator.demo.application import Connection, Ids
from replicator.demo.new_application import NewApplication
from replicator.demo.old_application import OldApplication

IN_USE: Final = """
SELECT epoch, replicator.active_schema(),
    CASE WHEN rolling_since IS NOT NULL THEN 'both' WHEN replicator.use_new_schema() THEN 'new' ELSE 'old' END
FROM _replicator.ownership
"""
NOT_INSTALLED: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
)
"""The control tables are not made yet."""


class OldParty(OldApplication):
    """The old application, which sells tickets too."""

    versions: ClassVar[Mapping[str, str]] = {
        **OldApplication.versions,
        "tickets": "SELECT id::text, note FROM public.tickets",
    }
    tables: ClassVar[frozenset[str]] = frozenset(versions)


class NewParty(NewApplication):
    """The new application, likewise."""

    versions: ClassVar[Mapping[str, str]] = {
        **NewApplication.versions,
        "tickets": "SELECT id::text, note FROM party.tickets",
    }
    tables: ClassVar[frozenset[str]] = frozenset(versions)


class RenamedOldParty(OldParty):
    """What the old tables hold while the new ones have their names. Nobody writes there."""

    versions: ClassVar[Mapping[str, str]] = {
        table: re.sub(r"public\.(\w+)", r"public.\1_old", query) for table, query in OldParty.versions.items()
    }


class RenamedNewParty(NewParty):
    """The new application while the new tables are in the old ones' place."""

    schema: ClassVar[str] = OldParty.schema
    versions: ClassVar[Mapping[str, str]] = {
        table: query.replace("party.", "public.") for table, query in NewParty.versions.items()
    }

    def __init__(self, connection: Connection, ids: Ids) -> None:
        super().__init__(cast("Connection", _InOldPlace(connection)), ids)


class _InOldPlace:
    """A connection that says ``public`` for ``party``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, query: str, *parameters: Any) -> "psycopg.Cursor[Any]":
        return self._connection.execute(query.replace("party.", "public.").encode(), *parameters)


class OldTickets(OldParty):
    """Nothing but tickets."""

    versions: ClassVar[Mapping[str, str]] = {"tickets": OldParty.versions["tickets"]}
    tables: ClassVar[frozenset[str]] = frozenset(versions)


class NewTickets(NewParty):
    """Likewise."""

    versions: ClassVar[Mapping[str, str]] = {"tickets": NewParty.versions["tickets"]}
    tables: ClassVar[frozenset[str]] = frozenset(versions)


@dataclass(frozen=True, order=True)
class InUse:
    """What an application is to write to."""

    epoch: int = 0
    owner: str = "old"
    """Or both: then either schema takes writes."""
    schema: str = OldParty.schema

    @property
    def renamed(self) -> bool:
        """The new tables are where the old ones were."""
        return self.owner == "new" and self.schema == OldParty.schema


def in_use(dsns: Iterable[str]) -> InUse:
    """What the replicator says; the database whose state row has moved last knows.

    :param dsns: of who may read the state row, which an application need not.
    """
    found = [InUse()]
    for dsn in dict.fromkeys(dsns):
        with psycopg.connect(dsn, autocommit=True) as opened, contextlib.suppress(*NOT_INSTALLED):
            found += [InUse(epoch, owner, schema) for epoch, schema, owner in opened.execute(IN_USE)]
    return max(found)
