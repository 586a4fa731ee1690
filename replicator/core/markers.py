"""Messages in the log that say where a stream begins to count. Nobody can guess one, or knows it before it is sent."""

from secrets import token_hex

from replicator.core.epochs import OwnershipEpoch


def new_marker(epoch: OwnershipEpoch) -> str:
    """The message that a pipeline waits for: what comes after it was written by the application.

    It goes into the pipeline's progress, which only the daemon can read, and into the log by the transaction that moves
    ownership.

    :param epoch: of the state row that this transaction writes.
    """
    # Anybody may write messages into the log: a marker that can be guessed would end the shadow early (I8).
    # guard: MARKER_SECRET
    return f"activated {epoch} {token_hex(16)}"


def epoch_of(marker: str) -> OwnershipEpoch:
    """The epoch that a marker was made for."""
    return OwnershipEpoch(int(marker.split()[1]))
