"""For the tests of both decoders: what a stream must look like, and what may happen to its bytes."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from hypothesis import strategies as st

from replicator.core.changes import Begin, Change, Commit, Event, Image, Message, Origin, RelationDefinition
from replicator.follow.decoder import Decoder
from replicator.values import Missing
from tests.fixtures.history import HISTORY, as_decoded


def decode_all(decoder: Decoder, payloads: Iterable[bytes]) -> list[Event]:
    return [event for payload in payloads for event in decoder.decode(payload)]


def expected_history(plugin: str) -> list[list[Change | Message]]:
    """The changes and messages of the history, by transaction; transactions without any are left out."""
    steps = [[as_decoded(event, plugin) for event in step.events] for step in HISTORY]
    return [seen for step in steps if (seen := [event for event in step if event is not None])]


def transactions(events: Sequence[Event]) -> list[list[Change | Message]]:
    """The changes and messages between each Begin and its Commit; what stands outside is one of its own.

    Asserts that the frame is sound: no Begin inside a transaction, one moment for both its ends, positions that grow.
    """
    found: list[list[Change | Message]] = []
    begun: Begin | None = None
    last_end = 0
    for event in events:
        match event:
            case Begin():
                assert begun is None
                assert 0 < event.xid < 1 << 32
                begun = event
                found.append([])
            case Commit():
                assert begun is not None
                assert begun.committed_at == event.committed_at
                assert event.committed_at.tzinfo is UTC
                assert event.committed_at > datetime(2020, 1, 1, tzinfo=UTC)
                assert event.end_lsn > last_end
                begun, last_end = None, event.end_lsn
            case Message(transactional=False):
                found.append([event])
            case Change() | Message():
                assert begun is not None
                found[-1].append(event)
    return [changes for changes in found if changes]


def is_sound(event: Event) -> bool:
    """Every field has the type that it promises, all the way down, and every text can be encoded."""
    match event:
        case Begin(xid, at):
            return type(xid) is int and 0 <= xid < 1 << 32 and at.tzinfo is UTC
        case Commit(end, at):
            return type(end) is int and 0 <= end < 1 << 64 and at.tzinfo is UTC
        case Message(prefix, content, transactional):
            return _is_text(prefix) and type(content) is bytes and type(transactional) is bool
        case Origin(origin):
            return _is_text(origin)
        case RelationDefinition(relation, columns):
            return all(map(_is_text, relation)) and all(_is_text(name) and type(oid) is int for name, oid in columns)
        case Change(relation, operation, new, old):
            return (
                (new is not None) == (operation in ("insert", "update"))
                and (old is not None or operation != "delete")
                and (old is None or operation in ("update", "delete"))
                and all(map(_is_text, relation))
                and _is_image(new)
                and _is_image(old)
            )


def _is_image(image: Image | None) -> bool:
    return image is None or all(
        _is_text(name) and (value is None or value is Missing.UNCHANGED or _is_text(value))
        for name, value in image.items()
    )


def _is_text(value: object) -> bool:
    return type(value) is str and value.encode().decode() == value


@st.composite
def damaged(draw: st.DrawFn, payloads: Sequence[bytes]) -> bytes:
    """A captured message to which something has happened: bytes lost, changed, added, or taken from another one."""
    payload = draw(st.sampled_from(payloads))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(payload)))
        end = draw(st.integers(start, min(len(payload), start + 8)))
        match draw(st.sampled_from(("change", "cut", "drop", "splice"))):
            case "change":
                payload = payload[:start] + draw(st.binary(max_size=8)) + payload[end:]
            case "cut":
                payload = payload[:start]
            case "drop":
                payload = payload[:start] + payload[end:]
            case "splice":
                payload = payload[:start] + draw(st.sampled_from(payloads))[start:]
    return payload
