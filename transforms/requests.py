"""Requests: the track becomes a document in Spotify's form, and six statuses become four."""

from typing import Any, Final

from replicator import Row
from transforms.party import EVENT_ID, migration, moment, new_id, with_zone

LEGACY: Final = (
    "id",
    "status",
    "created_at",
    "requester_nickname",
    "user_session_id",
    "approved_by",
    "rejection_reason",
    "spotify_added_to_queue",
    "spotify_added_to_playlist",
)
"""What the new columns cannot hold as it was."""


def request_id(old_id: str) -> str:
    """The new id of a request."""
    return new_id("requests", old_id)


def new_status(old: str) -> str:
    """The new status that stands for an old one."""
    return {"queued": "approved", "failed": "rejected"}.get(old, old)


def submitted_by(nickname: str | None) -> str:
    """Who is shown to have asked for the track."""
    return nickname or "Anonymous"


@migration.transform(source="requests", into="requests", key=lambda old: request_id(old["id"]))
def request(old: Row) -> dict[str, Any]:
    """Every old request belongs to the one event."""
    status = new_status(old["status"])
    created_at, approved_at = moment(old["created_at"]), with_zone(old["approved_at"])
    return {
        "id": request_id(old["id"]),
        "event_id": EVENT_ID,
        "track_id": old["track_uri"],
        "track_data": {
            "id": old["track_uri"],
            "uri": old["track_uri"],
            "name": old["track_name"],
            "artists": [{"name": old["artist_name"]}],
            "album": {"name": old["album_name"], "images": _images(old["album_image_url"])},
            "duration_ms": old["duration_ms"],
        },
        "submitted_by": submitted_by(old["requester_nickname"]),
        "status": status,
        "idempotency_key": old["requester_ip_hash"],
        "created_at": created_at,
        "approved_at": approved_at,
        "rejected_at": created_at if status == "rejected" else None,
        "played_at": approved_at if status == "played" else None,
        "legacy": {column: old[column] for column in LEGACY},
    }


def _images(url: str | None) -> list[dict[str, str]]:
    return [] if url is None else [{"url": url}]
