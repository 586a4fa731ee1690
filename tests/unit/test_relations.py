"""What names in the log stand for is known for as long as the changes that bear them are written."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.apply import relations as module
from replicator.apply.relations import Relations
from replicator.core.changes import Change, RelationName


@pytest.mark.parametrize("while_asking", [True, False])
async def test_what_is_forgotten_meanwhile_is_known_until_it_is_written(
    monkeypatch: pytest.MonkeyPatch, while_asking: bool
) -> None:
    """A look notices a TRUNCATE of a partition, while the batch that holds it is written change by change."""
    relations = Relations(cast("Any", SimpleNamespace(plan=SimpleNamespace(watched={}))))

    async def roots(*_: object) -> dict[Any, Any]:
        if while_asking:
            relations.forget()
        return {}

    monkeypatch.setattr(module, "partition_roots", roots)
    change = Change(relation=RelationName("public", "part"), operation="truncate")
    known = await relations.resolve([change], cast("Any", None))
    relations.forget()
    assert known[change.relation] is None
