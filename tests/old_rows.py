"""Random content of the old schema, hostile but legal: for tests with a server and without."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from hypothesis import strategies as st

Row = dict[str, Any]
Party = dict[str, list[Row]]
"""The rows of the five old tables that are migrated, by table."""

HOSTILE: Final = (
    "",
    " ",
    "\\",
    '"',
    "'; DROP TABLE requests; --",
    "null",
    "NULL",
    "{}",
    '{"a": [1, "b"]}',
    "[",
    "\\u0000",
    "\\N",
    "\x01\x1f\x7f",
    "\t\r\n",
    "\u2028\ufeff\uffff",
    "%s %(id)s %%",
    "Anonymous",
    "anonymous",
    "é",
    "e\u0301",
    "\u202eabc",
    "🕺" * 3,
    "1e400",
    "target_device_id",
)

TIMESTAMPS: Final = (
    "-infinity",
    "infinity",
    "4714-11-24 00:00:00 BC",
    "0044-03-15 12:00:00.000001 BC",
    "0001-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "2024-02-29 12:30:00.5",
    "10000-01-01 00:00:00",
    "294276-12-31 23:59:59.999999",
)
"""As Postgres prints them."""


def _printed(moment: datetime) -> str:
    text = moment.isoformat(" ")
    return text.rstrip("0") if "." in text else text


def _spellings(value: UUID) -> st.SearchStrategy[str]:
    canonical = str(value)
    others = (canonical.upper(), value.hex, f"{{{canonical}}}", value.urn, f" {canonical}", f"{canonical}\n")
    return st.one_of(st.just(canonical), st.sampled_from(others))


_characters: Final = (st.integers(1, 0x7F) | st.integers(0x80, 0xD7FF) | st.integers(0xE000, 0x10FFFF)).map(chr)
texts: Final = st.sampled_from(HOSTILE) | st.text(_characters, max_size=20)
timestamps: Final = st.sampled_from(TIMESTAMPS) | st.datetimes().map(_printed)
ids: Final = (
    texts | st.uuids().flatmap(_spellings) | st.sampled_from([UUID(int=1), UUID(int=2**128 - 1)]).flatmap(_spellings)
)
integers: Final = st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1]) | st.integers(-(2**31), 2**31 - 1)
null: Final = st.none()
some_text: Final = null | texts
some_time: Final = null | timestamps
some_integer: Final = null | integers
some_boolean: Final = null | st.booleans()

requests: Final = st.fixed_dictionaries(
    {
        "id": ids,
        "track_uri": texts,
        "track_name": texts,
        "artist_name": texts,
        "album_name": some_text,
        "album_image_url": some_text,
        "duration_ms": integers,
        "requester_ip_hash": texts,
        "requester_nickname": some_text,
        "user_session_id": some_text,
        "status": st.sampled_from(["pending", "approved", "rejected", "queued", "failed", "played"]),
        "created_at": some_time,
        "approved_at": some_time,
        "approved_by": some_text,
        "rejection_reason": some_text,
        "spotify_added_to_queue": some_boolean,
        "spotify_added_to_playlist": some_boolean,
    }
)

KEYS_IN_USE: Final = (
    "party_playlist_id",
    "target_device_id",
    "party_name",
    "max_requests_per_ip_per_hour",
    "request_cooldown_seconds",
)
settings: Final = st.fixed_dictionaries(
    {"key": st.sampled_from(KEYS_IN_USE) | texts, "value": texts, "updated_at": some_time}
)

admins: Final = st.fixed_dictionaries(
    {
        "id": ids,
        "username": texts,
        "password_hash": texts,
        "created_at": some_time,
        "last_login": some_time,
        "is_active": some_boolean,
    }
)

spotify_auth: Final = st.fixed_dictionaries(
    {
        "id": st.just(1),
        "access_token": some_text,
        "refresh_token": some_text,
        "expires_at": some_time,
        "scope": some_text,
        "token_type": some_text,
        "updated_at": some_time.filter(lambda text: text != "-infinity"),  # comes back as null
    }
)

event_settings: Final = st.fixed_dictionaries(
    {
        "id": st.just(1),
        "event_title": some_text,
        "dj_name": some_text,
        "venue_info": some_text,
        "welcome_message": some_text,
        "secondary_message": some_text,
        "tertiary_message": some_text,
        "show_qr_code": some_boolean,
        "display_refresh_interval": some_integer,
        "admin_polling_interval": some_integer,
        "display_polling_interval": some_integer,
        "now_playing_polling_interval": some_integer,
        "sse_update_interval": some_integer,
        "request_limit": some_integer,
        "auto_approve": some_boolean,
        "force_polling": some_boolean,
        "requests_page_enabled": some_boolean,
        "display_page_enabled": some_boolean,
        "message_text": some_text,
        "message_duration": some_integer,
        "message_created_at": some_time,
        "updated_at": some_time,
    }
)


def _table(rows: st.SearchStrategy[Row], unique: Sequence[str]) -> st.SearchStrategy[list[Row]]:
    by = tuple((lambda row, column=column: row[column]) for column in unique)
    return st.lists(rows, max_size=4, unique_by=by)


def _singleton(row: st.SearchStrategy[Row]) -> st.SearchStrategy[list[Row]]:
    return st.lists(row, max_size=1)


parties: Final[st.SearchStrategy[Party]] = st.fixed_dictionaries(
    {
        "requests": _table(requests, ["id"]),
        "settings": _table(settings, ["key"]),
        "admins": _table(admins, ["id", "username"]),
        "spotify_auth": _singleton(spotify_auth),
        "event_settings": _singleton(event_settings),
    }
)
