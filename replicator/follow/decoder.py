"""What the two decoders have in common: bytes of the output plugin in, events out; no socket, no clock."""

from typing import Final, Protocol

from replicator.core.changes import Event

MESSAGE_PREFIX: Final = "replicator"
"""The prefix of our messages where no secret one is given. Anybody may send such a message."""

MOST_MESSAGE_BYTES: Final = 4_096
"""A longer message is not ours, whatever its prefix: anyone who may connect can emit one, of up to a gigabyte."""

PluginOptions = list[tuple[str, str]]
"""Names and values for START_REPLICATION, not yet quoted."""

REMEDY: Final = (
    "Nothing of its transaction was applied. Start the daemon again; if the same thing happens, the server's plugin "
    "and this version of replicator do not fit together: report the message above."
)


class Decoder(Protocol):
    """Understands one output plugin. It may remember what the stream has told it, so each stream gets a new one."""

    prefix: str
    """Of every ``pg_logical_emit_message`` of ours, exactly: all others are dropped, by the server if it can."""
    nulls_are_ambiguous: bool
    """A None in a numeric or float column may stand for NaN or infinity: read the row again to know."""

    def options(self) -> PluginOptions:
        """What the plugin must be asked for, so that ``decode`` understands it."""
        ...

    def decode(self, payload: bytes) -> list[Event]:
        """The events of one message, mostly one. Raises ProtocolError, and nothing else, for what it does not know."""
        ...
