"""What is broken, one line each, and which test sees it."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A line of the engine, what is put in its place, and what is wrong then."""

    file: str
    line: str
    """Without what stands before and behind it."""
    instead: str
    wrong: str
    test: str
    """A test's file and, behind a space, the words that pick it."""
    server: str = "pg18-pgoutput"


def _m(file: str, line: str, instead: str, wrong: str, test: str, server: str = "pg18-pgoutput") -> Mutation:
    return Mutation(file=f"replicator/{file}", line=line, instead=instead, wrong=wrong, test=test, server=server)


MUTATIONS: Final = (
    # the decoders and the frames
    _m(
        "follow/pgoutput.py",
        "_, end_lsn, microseconds = _COMMIT.unpack(payload)",
        "end_lsn, _, microseconds = _COMMIT.unpack(payload)",
        "the commit's own position is confirmed, not its end",
        "unit/test_pgoutput.py commit_carries",
    ),
    _m(
        "follow/pgoutput.py",
        "if marker == _KEY:",
        "if False:",
        "an old row that is only a key has NULL for all else",
        "unit/test_pgoutput.py delete_has_only_the_key",
    ),
    _m(
        "follow/pgoutput.py",
        "image[name] = Missing.UNCHANGED",
        "image[name] = None",
        "a value that the log leaves out becomes NULL",
        "unit/test_pgoutput.py unchanged_value",
    ),
    _m(
        "follow/pgoutput.py",
        "if end != len(payload):",
        "if end > len(payload):",
        "bytes too many are overlooked",
        "unit/test_pgoutput.py overlong",
    ),
    _m(
        "follow/wal2json.py",
        'end = parse_lsn(_text(document, "nextlsn"))',
        'end = parse_lsn(_text(document, "lsn"))',
        "the commit's own position is confirmed, not its end",
        "unit/test_wal2json.py commit_carries",
        "pg15-wal2json",
    ),
    _m(
        "follow/wal2json.py",
        "_JSON: Final = json.JSONDecoder(parse_int=str, parse_float=str)",
        "_JSON: Final = json.JSONDecoder(parse_int=str)",
        "numbers lose their digits",
        "unit/test_wal2json.py keep_their_digits",
        "pg15-wal2json",
    ),
    _m(
        "follow/wal2json.py",
        "if old.items() <= new.items():",
        "if True:",
        "a change of key leaves the old row where it was",
        "unit/test_wal2json.py update_of_the_identity",
        "pg15-wal2json",
    ),
    _m(
        "postgres/wire/frames.py",
        "return Keepalive(LSN(end), reply != 0)",
        "return Keepalive(LSN(end), reply == 0)",
        "a server that asks to hear from us is not answered",
        "unit/test_frames.py wants_a_reply",
    ),
    # whole transactions
    _m(
        "follow/transaction_buffer.py",
        "if commit.end_lsn <= self._applied:",
        "if commit.end_lsn < self._applied:",
        "the last transaction that was applied is applied again",
        "unit/test_inbox.py applied_already",
    ),
    _m(
        "follow/transaction_buffer.py",
        "while self._queue and not batch.messages:",
        "while self._queue:",
        "what comes behind a start marker is passed over with it",
        "unit/test_inbox.py message_ends",
    ),
    _m(
        "follow/transaction_buffer.py",
        "if self._open is not None or position <= self._applied:",
        "if position <= self._applied:",
        "a position inside a transaction counts as applied",
        "unit/test_inbox.py no_idle_position",
    ),
    # the applier
    _m(
        "apply/compacting.py",
        "if old_key is not None and old_key != new_key:",
        "if False:",
        "a row that gets another key stays under the old one too",
        "integration/test_pipeline.py each_kind",
    ),
    _m(
        "apply/compacting.py",
        'if nulls_are_ambiguous and column.kind in ("float", "numeric"):',
        "if False:",
        "by wal2json, NaN becomes NULL",
        "integration/test_stream_values.py every_value",
        "pg15-wal2json",
    ),
    _m(
        "apply/effects.py",
        "for gone in (produced | there) - now:",
        "for gone in now - (produced | there):",
        "what a row no longer produces stays",
        "integration/test_lookup.py each_change",
    ),
    _m(
        "apply/compacting.py",
        "state.truncated = True",
        "pass",
        "after a TRUNCATE the rows stay",
        "integration/test_pipeline.py each_kind",
    ),
    _m(
        "apply/net_changes.py",
        "dirty_keys.touch(name, state.rows)",
        "touches.touch(name, ())",
        "a chunk does not learn what the stream has removed (I3)",
        "integration/test_histories.py comes_back_without_i3",
    ),
    _m(
        "apply/applier.py",
        "self._connection, self.context.direction, end, unseen=visibility.unseen, started=started",
        "self._connection, self.context.direction, end, unseen=(), started=started",
        "a new daemon's reads may miss what is applied (I4)",
        "integration/test_histories.py one_before_it",
    ),
    # progress
    _m(
        "pipeline/pipeline.py",
        "outcome = await self._applier.commit(end, started=reached_start)",
        "self._confirm(end); outcome = await self._applier.commit(end, started=reached_start)",
        "the flush is confirmed before the commit (I2)",
        "integration/test_progress.py nothing_is_confirmed",
    ),
    _m(
        "postgres/control/progress.py",
        "\"SELECT coalesce(max(read_lsn), '0/0')::text FROM _replicator.chunks WHERE pipeline = %s\", (pipeline,)",
        "\"SELECT coalesce(min(read_lsn), '0/0')::text FROM _replicator.chunks WHERE pipeline = %s\", (pipeline,)",
        "the backfill is done before the stream has come to what was copied (I1)",
        "integration/test_progress.py consistent_point",
    ),
    _m(
        "postgres/control/progress.py",
        "(format_lsn(applied), sorted(unseen), started, pipeline),",
        "(format_lsn(applied), sorted(unseen), False, pipeline),",
        "after a restart, the opposite stream waits for a start marker that has come by",
        "integration/test_progress.py comes_back",
    ),
    _m(
        "postgres/wire/slots.py",
        "if slot.confirmed > progress.applied:",
        "if False:",
        "a slot that has been read by others goes on, with changes missing (I2)",
        "integration/test_slots.py does_not_go_on",
    ),
    _m(
        "postgres/control/control.sql",
        "IF (SELECT epoch FROM _replicator.lease) IS DISTINCT FROM expected THEN",
        "IF false THEN",
        "a daemon that has lost its lease goes on writing (I6)",
        "integration/test_in_doubt.py lost_its_lease",
    ),
    _m(
        "postgres/session/pins.py",
        '"default_transaction_isolation": "read committed",',
        '"default_transaction_deferrable": "off",',
        "where the database says serializable, a late write does not see that its daemon is dead (I6)",
        "integration/test_in_doubt.py statement_sees",
    ),
    # the backfill
    _m(
        "backfill/copier.py",
        "kept = {place: row for place, row in derived.items() if row.source_key not in touched}",
        "kept = dict(derived)",
        "a deleted row comes back (I3)",
        "integration/test_histories.py comes_back_without_i3",
    ),
    _m(
        "core/rw_lock.py",
        "return not self._written and not self._readers.total()",
        "return not self._written",
        "the applier does not wait for a chunk that is being written (I3)",
        "unit/test_rw_lock.py sharers_share",
    ),
    _m(
        "core/dirty_keys.py",
        "if window.opened < self._spoiled_before.get(source, 0):",
        "if False:",
        "touches that were forgotten count as none",
        "unit/test_touches.py spoil",
    ),
    _m(
        "core/dirty_keys.py",
        "touches.keys.pop(key, None)  # the youngest goes last",
        "pass",
        "what has been touched again is forgotten with what was touched before it",
        "unit/test_touches.py",
    ),
    _m(
        "postgres/rows/inserting.py",
        "if absent_only or not updated",
        "if not updated",
        "a chunk overwrites what the stream has written",
        "integration/test_progress.py leaves_rows_alone",
    ),
    _m(
        "postgres/wire/snapshots.py",
        "return not self._delivered",
        "return True",
        "a read takes a snapshot that misses what the stream has delivered (I4)",
        "unit/test_snapshots.py only_a_snapshot",
    ),
    _m(
        "postgres/wire/snapshots.py",
        "return full < self.xmin or (full < self.xmax and full not in self.in_progress)",
        "return full < self.xmax",
        "a transaction that runs counts as seen (I4)",
        "unit/test_snapshots.py sees",
    ),
    _m(
        "pipeline/setup.py",
        "await wait_for_running(source, tell or _log_wait)",
        "pass",
        "what is not visible when the slot is made is in neither stream nor chunk (I4)",
        "integration/test_in_doubt.py slot_is_made",
    ),
    # the cutover
    _m(
        "pipeline/write_gate.py",
        "self._going.clear()",
        "pass",
        "after the cutover, the old stream carries the new one's writes back (I8)",
        "integration/test_cutover.py echoed",
    ),
    _m(
        "pipeline/pipeline.py",
        "shadow=progress.start_marker is not None,",
        "shadow=False,",
        "the opposite stream writes before ownership has moved (I8)",
        "integration/test_in_doubt.py before_its_start",
    ),
    _m(
        "switchover/cutover.py",
        "await enter(holder, self.epoch)",
        "pass",
        "a new daemon may judge a cutover that the old one is about to commit (I8)",
        "integration/test_in_doubt.py old_ones_cutover",
    ),
    _m(
        "postgres/control/ownership.py",
        'return await _read_ownership(connection, sql.SQL("FOR SHARE"))',
        'return await _read_ownership(connection, sql.SQL(""))',
        "a lost reply is judged while the commit is under way (I8)",
        "integration/test_in_doubt.py still_under_way",
    ),
    # both schemas take writes
    _m(
        "apply/compacting.py",
        "state.copies.setdefault(new_key, []).append(row)",
        "pass",
        "what comes over and is changed at once is forgotten, and stays there",
        "integration/test_rolling.py comes_over",
    ),
    _m(
        "switchover/cutover.py",
        "await pipeline.wait_message(marker)",
        "pass",
        "ownership moves before the last writes have arrived (I8)",
        "integration/test_cutover.py last_write",
    ),
)


def mutated(text: str, mutation: Mutation) -> str:
    """The file with the line replaced. Raises ValueError unless it is there once."""
    lines = text.split("\n")
    places = [number for number, line in enumerate(lines) if line.strip() == mutation.line]
    if len(places) != 1:
        raise ValueError(f"{mutation.file} has this line {len(places)} times: {mutation.line}")
    line = lines[places[0]]
    lines[places[0]] = line.replace(mutation.line, mutation.instead)
    return "\n".join(lines)
