"""Whole transactions, in bounded pieces."""

import asyncio
from datetime import UTC, datetime

import pytest

from replicator.core.changes import Begin, Change, Commit, Event, Message, Origin, RelationName
from replicator.core.lsn import LSN
from replicator.errors import ProtocolError
from replicator.follow.transaction_buffer import BYTES_HELD, MOST_MESSAGES, Batch, TransactionBuffer
from tests.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def changes(*numbers: int) -> list[Event]:
    return [Change(RelationName("public", "t"), "insert", new={"id": str(number)}) for number in numbers]


def transaction(end: int, *numbers: int, message: str | None = None) -> list[Event]:
    said = [] if message is None else [Message("replicator", message.encode(), transactional=True)]
    return [Begin(end, NOW), *changes(*numbers), *said, Commit(LSN(end), NOW)]


def ids(piece: Batch) -> list[int]:
    return [int(str((change.new or {})["id"])) for change in piece.changes]


async def filled(*transactions: list[Event], applied: int = 0) -> TransactionBuffer:
    inbox = TransactionBuffer(LSN(applied))
    for each in transactions:
        await inbox.put([(event, 10) for event in each], LSN(1))
    return inbox


async def test_small_transactions_come_together_and_whole() -> None:
    inbox = await filled(transaction(10, 1, 2), transaction(20, 3), transaction(30, 4, 5))
    piece = await inbox.take(4)
    assert (ids(piece), piece.end, piece.transactions) == ([1, 2, 3], 20, 2)
    piece = await inbox.take(4)
    assert (ids(piece), piece.end, piece.transactions) == ([4, 5], 30, 1)
    assert inbox.empty


async def test_a_large_transaction_comes_in_pieces_with_an_end_on_the_last() -> None:
    inbox = await filled(transaction(10, *range(7)), transaction(20, 8))
    pieces = [await inbox.take(3) for _ in range(3)]
    assert [(ids(piece), piece.end) for piece in pieces] == [([0, 1, 2], None), ([3, 4, 5], None), ([6, 8], 20)]


async def test_what_is_not_committed_yet_waits() -> None:
    inbox = await filled([Begin(10, NOW), *changes(1)])
    taking = asyncio.create_task(inbox.take(5))
    await asyncio.sleep(0)
    assert not taking.done()
    await inbox.put([(Commit(LSN(10), NOW), 10)], LSN(10))
    assert ids(await taking) == [1]


async def test_a_large_one_is_taken_before_it_is_complete_but_never_behind_another() -> None:
    inbox = await filled(transaction(10, 1), [Begin(20, NOW), *changes(2, 3, 4)])
    assert ids(await inbox.take(2)) == [1]
    piece = await inbox.take(2)
    assert (ids(piece), piece.end) == ([2, 3], None)


async def test_a_message_ends_the_piece() -> None:
    inbox = await filled(transaction(10, 1, message="drained"), transaction(20, 2))
    piece = await inbox.take(100)
    assert (ids(piece), piece.messages) == ([1], ["drained"])
    assert (await inbox.take(100)).messages == []


async def test_heartbeats_and_strangers_say_nothing() -> None:
    stranger: list[Event] = [Begin(5, NOW), Message("other", b"x", transactional=True), Commit(LSN(5), NOW)]
    inbox = await filled(stranger, transaction(10, message="heartbeat"))
    piece = await inbox.take(100)
    assert (piece.messages, piece.end) == ([], 10)


async def test_what_is_applied_already_is_skipped() -> None:
    inbox = await filled(transaction(10, 1), transaction(20, 2), applied=10)
    piece = await inbox.take(100)
    assert (ids(piece), piece.transactions) == ([2], 1)


async def test_an_idle_position_comes_after_what_was_sent_before_it() -> None:
    inbox = await filled(transaction(10, 1))
    await inbox.idle(LSN(50))
    piece = await inbox.take(100)
    assert (ids(piece), piece.end, piece.transactions) == ([1], 50, 1)
    await inbox.idle(LSN(40))
    await inbox.idle(LSN(60))
    assert (await inbox.take(100)).end == 60


async def test_no_idle_position_inside_a_transaction() -> None:
    inbox = await filled([Begin(10, NOW), *changes(1)])
    await inbox.idle(LSN(50))
    await inbox.put([(Commit(LSN(30), NOW), 1)], LSN(30))
    assert (await inbox.take(100)).end == 30


async def test_a_full_inbox_makes_the_reader_wait() -> None:
    inbox = TransactionBuffer(LSN(0))
    await inbox.put([(Begin(1, NOW), 0), (changes(1)[0], BYTES_HELD)], LSN(1))
    waiting = asyncio.create_task(inbox.put([(changes(2)[0], 1)], LSN(2)))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert ids(await inbox.take(100)) == [1]
    await waiting


@pytest.mark.parametrize(
    "events", [[Commit(LSN(1), NOW)], changes(1), [Begin(1, NOW), Begin(2, NOW)]], ids=["commit", "change", "begin"]
)
async def test_nonsense_is_a_protocol_error(events: list[Event]) -> None:
    with pytest.raises(ProtocolError):
        await filled(events)


async def test_a_transaction_without_anything_for_us_is_a_mere_position() -> None:
    inbox = await filled(transaction(10), transaction(20, message="heartbeat"))
    piece = await inbox.take(100)
    assert (piece.transactions, piece.end) == (0, 20)


async def test_a_large_transaction_behind_a_mere_position_is_no_mere_position() -> None:
    inbox = await filled(transaction(10), transaction(20, 1, 2, 3))
    pieces = [await inbox.take(2) for _ in range(3)]
    assert [(ids(piece), piece.end, piece.transactions) for piece in pieces] == [
        ([], 10, 0),
        ([1, 2], None, 0),
        ([3], 20, 1),
    ]


@pytest.mark.parametrize("keeps", [True, False])
async def test_what_the_opposite_pipeline_wrote_is_marked_or_left_out(keeps: bool) -> None:
    inbox = TransactionBuffer(LSN(0))
    inbox.own_origins, inbox.keeps_own = frozenset({"ours"}), keeps
    for end, origin in ((10, "ours"), (20, "somebody's"), (30, "ours")):
        begin, *rest = transaction(end, end)
        await inbox.put([(event, 10) for event in (begin, Origin(origin), *rest)], LSN(end))
    piece = await inbox.take(10)
    assert [(int(str((each.new or {})["id"])), each.own) for each in piece.changes] == (
        [(10, True), (20, False), (30, True)] if keeps else [(20, False)]
    )
    assert all(each.committed_at == NOW for each in piece.changes)
    if not keeps:
        assert piece.transactions == 1
    assert piece.end == 30
    assert inbox.empty


# ---- bounded, whatever comes


async def test_transactions_without_changes_become_one_position() -> None:
    """The server commits thousands for other tables while a batch is written."""
    inbox = await filled(*(transaction(end) for end in range(1, 10_000)))
    assert len(inbox._queue) == 1
    assert (await inbox.take(100)).end == 9_999
    assert inbox._size == 0


async def test_of_a_transaction_of_messages_few_are_kept() -> None:
    said = [Message("replicator", b"x", transactional=True)] * 10_000
    inbox = await filled([Begin(1, NOW), *said, Commit(LSN(1), NOW)])
    assert len((await inbox.take(100)).messages) <= MOST_MESSAGES
    assert inbox._size == 0


@pytest.mark.parametrize("message", [None, "x"])
async def test_any_number_of_small_transactions_fills_the_inbox(message: str | None) -> None:
    """What each costs beyond its bytes counts too."""
    inbox = TransactionBuffer(LSN(0))
    number = [1] if message is None else []

    async def pour() -> None:
        for end in range(1, 1_000_000):
            await inbox.put([(event, 1) for event in transaction(end, *number, message=message)], LSN(end))

    pouring = asyncio.create_task(pour())
    await asyncio.wait([pouring], timeout=0)
    await until(lambda: inbox._size >= BYTES_HELD, every=0)
    assert not pouring.done()
    assert len(inbox._queue) < BYTES_HELD // 50
    pouring.cancel()


async def test_what_is_taken_counts_no_longer_whatever_its_size() -> None:
    """The changes of a transaction that is taken in parts may be of very different sizes."""
    inbox = TransactionBuffer(LSN(0))
    sizes = (1, 1, 1_000_000)
    await inbox.put([(Begin(1, NOW), 0), *zip(changes(1, 2, 3), sizes, strict=True)], LSN(1))
    await inbox.take(2)
    assert 1_000_000 <= inbox._size < 1_001_000
    await inbox.take(1)
    assert inbox._size < 1_000
