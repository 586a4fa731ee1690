"""The reference migration: a party's song requests, from seven tables to four.

A module for each new table, and one in ``reverse`` for each old table that is made again from the new ones.
"""

from transforms import admins, events, requests, reverse, spotify_tokens
from transforms.party import migration

__all__ = ["admins", "events", "migration", "requests", "reverse", "spotify_tokens"]

migration.retire("oauth_sessions", because="they expire within ten minutes")
migration.retire("notifications", because="they follow from the requests; archived before the old tables go")
