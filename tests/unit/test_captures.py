"""One history, captured from each server: it decodes to the same changes, whichever version and plugin sent it."""

import pytest

from replicator.core.changes import Change, Image, Message
from replicator.follow.pgoutput import PgoutputDecoder
from replicator.follow.wal2json import Wal2JsonDecoder
from replicator.values import Missing
from tests.fixtures.history import CAPTURED, HISTORY, TABLES, Bytea, Float, Generated, captured
from tests.unit.streams import decode_all, transactions

Sent = list[list[Change | Message]]


def decoded(name: str) -> Sent:
    decoder = Wal2JsonDecoder(TABLES) if "wal2json" in name else PgoutputDecoder(["p"])
    return transactions(decode_all(decoder, captured(name)))


def test_every_version_sends_the_same_by_pgoutput() -> None:
    versions = [name for name in CAPTURED if "pgoutput" in name]
    assert {name[:4] for name in versions} == {"pg14", "pg15", "pg16", "pg17", "pg18"}
    first, *others = map(decoded, versions)
    assert first
    assert [each for each in others if each != first] == []


@pytest.mark.parametrize("name", [name for name in CAPTURED if "pgoutput" in name])
def test_both_plugins_send_the_same_but_for_what_is_known(name: str) -> None:
    """Generated columns, values that an update leaves alone, NaN, the prefix of bytea differ, and nothing else."""
    one, other = comparable(decoded(name)), comparable(decoded("pg15-wal2json"))
    assert len(one) > 30
    assert one == other


def comparable(sent: Sent) -> list[list[tuple[object, ...]]]:
    return [
        [
            (each.relation, each.operation, plain(each.new), plain(each.old))
            if isinstance(each, Change)
            else (each.prefix, each.content, each.transactional)
            for each in transaction
            if isinstance(each, Change) or each.prefix == "replicator"  # wal2json is asked for ours only
        ]
        for transaction in sent
    ]


def plain(image: Image | None) -> dict[str, object] | None:
    if image is None:
        return None
    return {
        name: None if value in NOT_NUMBERS else value[2:] if isinstance(value, str) and value in BINARY else value
        for name, value in image.items()
        if value is not Missing.UNCHANGED and name not in GENERATED
    }


def _values(kind: type[str]) -> set[str]:
    images = [
        image for step in HISTORY for event in step.events if isinstance(event, Change)
        for image in (event.new, event.old) if image
    ]  # fmt: skip
    return {str(value) for image in images for value in image.values() if isinstance(value, kind)}


NOT_NUMBERS = _values(Float)
BINARY = _values(Bytea)
GENERATED = {
    name for step in HISTORY for event in step.events if isinstance(event, Change)
    for name, value in (event.new or {}).items() if isinstance(value, Generated)
}  # fmt: skip
