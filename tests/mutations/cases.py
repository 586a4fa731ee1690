"""What is broken, at which marker, and which test sees it."""

from dataclasses import dataclass
from typing import Final

from tests.mutations.breaking import Break, Condition, First, Left, Text, Value


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A marker in the engine's source, what is done there, and what is wrong then."""

    marker: str
    done: Break
    wrong: str
    test: str
    """A test's file and, behind a space, the words that pick it."""
    server: str = "pg18-pgoutput"


def _m(marker: str, done: Break, wrong: str, test: str, server: str = "pg18-pgoutput") -> Mutation:
    return Mutation(marker=marker, done=done, wrong=wrong, test=test, server=server)


MUTATIONS: Final = (
    # the decoders and the frames
    _m(
        "pgoutput-commit-end",
        Text("_, end_lsn", "end_lsn, _"),
        "the commit's own position is confirmed, not its end",
        "unit/test_pgoutput.py commit_carries",
    ),
    _m(
        "pgoutput-key-only",
        Condition(False),
        "an old row that is only a key has NULL for all else",
        "unit/test_pgoutput.py delete_has_only_the_key",
    ),
    _m(
        "pgoutput-unchanged",
        Value("None"),
        "a value that the log leaves out becomes NULL",
        "unit/test_pgoutput.py unchanged_value",
    ),
    _m(
        "pgoutput-overlong",
        Text("!=", ">"),
        "bytes too many are overlooked",
        "unit/test_pgoutput.py overlong",
    ),
    _m(
        "wal2json-commit-end",
        Text("nextlsn", "lsn"),
        "the commit's own position is confirmed, not its end",
        "unit/test_wal2json.py commit_carries",
        "pg15-wal2json",
    ),
    _m(
        "wal2json-digits",
        Text(", parse_float=str", ""),
        "numbers lose their digits",
        "unit/test_wal2json.py keep_their_digits",
        "pg15-wal2json",
    ),
    _m(
        "wal2json-key-change",
        Condition(True),
        "a change of key leaves the old row where it was",
        "unit/test_wal2json.py update_of_the_identity",
        "pg15-wal2json",
    ),
    _m(
        "keepalive-reply",
        Text("!=", "=="),
        "a server that asks to hear from us is not answered",
        "unit/test_frames.py wants_a_reply",
    ),
    # whole transactions
    _m(
        "applied-already",
        Text("<=", "<"),
        "the last transaction that was applied is applied again",
        "unit/test_inbox.py applied_already",
    ),
    _m(
        "message-ends-batch",
        Text(" and not batch.messages", ""),
        "what comes behind a start marker is passed over with it",
        "unit/test_inbox.py message_ends",
    ),
    _m(
        "idle-inside-transaction",
        Text("self._open is not None or ", ""),
        "a position inside a transaction counts as applied",
        "unit/test_inbox.py no_idle_position",
    ),
    # the applier
    _m(
        "key-change-leaves",
        Condition(False),
        "a row that gets another key stays under the old one too",
        "integration/test_pipeline.py each_kind",
    ),
    _m(
        "ambiguous-null",
        Condition(False),
        "by wal2json, NaN becomes NULL",
        "integration/test_stream_values.py every_value",
        "pg15-wal2json",
    ),
    _m(
        "no-longer-produced",
        Left(),
        "what a row no longer produces stays",
        "integration/test_lookup.py each_change",
    ),
    _m(
        "truncate",
        Left(),
        "after a TRUNCATE the rows stay",
        "integration/test_pipeline.py each_kind",
    ),
    _m(
        "stream-touches",
        Left(),
        "a chunk does not learn what the stream has removed (I3)",
        "integration/test_histories.py comes_back_without_i3",
    ),
    _m(
        "unseen-stored",
        Text("visibility.unseen", "()"),
        "a new daemon's reads may miss what is applied (I4)",
        "integration/test_histories.py one_before_it",
    ),
    # progress
    _m(
        "confirm-after-commit",
        First("confirm and confirm(work.end)"),
        "the flush is confirmed before the commit (I2)",
        "integration/test_progress.py nothing_is_confirmed",
    ),
    _m(
        "consistent-point",
        Text("max(", "min("),
        "the backfill is done before the stream has come to what was copied (I1)",
        "integration/test_progress.py consistent_point",
    ),
    _m(
        "start-reached",
        Text("started", "False"),
        "after a restart, the opposite stream waits for a start marker that has come by",
        "integration/test_progress.py comes_back",
    ),
    _m(
        "slot-ahead",
        Condition(False),
        "a slot that has been read by others goes on, with changes missing (I2)",
        "integration/test_slots.py does_not_go_on",
    ),
    _m(
        "lease-epoch",
        Text("(SELECT epoch FROM _replicator.lease) IS DISTINCT FROM expected", "false"),
        "a daemon that has lost its lease goes on writing (I6)",
        "integration/test_in_doubt.py lost_its_lease",
    ),
    _m(
        "read-committed",
        Text('"default_transaction_isolation": "read committed"', '"default_transaction_deferrable": "off"'),
        "where the database says serializable, a late write does not see that its daemon is dead (I6)",
        "integration/test_in_doubt.py statement_sees",
    ),
    # the backfill
    _m(
        "touched-rows-dropped",
        Condition(True),
        "a deleted row comes back (I3)",
        "integration/test_histories.py comes_back_without_i3",
    ),
    _m(
        "writer-alone",
        Text(" and not self._readers.total()", ""),
        "the applier does not wait for a chunk that is being written (I3)",
        "unit/test_rw_lock.py sharers_share",
    ),
    _m(
        "window-spoiled",
        Condition(False),
        "touches that were forgotten count as none",
        "unit/test_touches.py spoil",
    ),
    _m(
        "youngest-last",
        Left(),
        "what has been touched again is forgotten with what was touched before it",
        "unit/test_touches.py",
    ),
    _m(
        "chunk-absent-only",
        Text("absent_only or ", ""),
        "a chunk overwrites what the stream has written",
        "integration/test_progress.py leaves_rows_alone",
    ),
    _m(
        "snapshot-admits",
        Value("True"),
        "a read takes a snapshot that misses what the stream has delivered (I4)",
        "unit/test_snapshots.py only_a_snapshot",
    ),
    _m(
        "snapshot-in-progress",
        Text(" and full not in self.in_progress", ""),
        "a transaction that runs counts as seen (I4)",
        "unit/test_snapshots.py sees",
    ),
    _m(
        "slot-waits-for-running",
        Left(),
        "what is not visible when the slot is made is in neither stream nor chunk (I4)",
        "integration/test_in_doubt.py slot_is_made",
    ),
    # the cutover
    _m(
        "old-stream-stands",
        Left(),
        "after the cutover, the old stream carries the new one's writes back (I8)",
        "integration/test_cutover.py echoed",
    ),
    _m(
        "opposite-shadow",
        Text("progress.start_marker is not None", "False"),
        "the opposite stream writes before ownership has moved (I8)",
        "integration/test_in_doubt.py before_its_start",
    ),
    _m(
        "cutover-epoch",
        Left(),
        "a new daemon may judge a cutover that the old one is about to commit (I8)",
        "integration/test_in_doubt.py old_ones_cutover",
    ),
    _m(
        "settled-ownership",
        Text("FOR SHARE", ""),
        "a lost reply is judged while the commit is under way (I8)",
        "integration/test_in_doubt.py still_under_way",
    ),
    # both schemas take writes
    _m(
        "copied-over",
        Left(),
        "what comes over and is changed at once is forgotten, and stays there",
        "integration/test_rolling.py comes_over",
    ),
    _m(
        "drained",
        Left(),
        "ownership moves before the last writes have arrived (I8)",
        "integration/test_cutover.py last_write",
    ),
)
