"""Old requests, from new ones."""

from typing import Any

from replicator import Row, as_json
from transforms.party import kept, migration, moment, without_zone
from transforms.requests import new_status, request_id, submitted_by


@migration.reverse(source="requests", into="requests")
def old_request(new: Row) -> dict[str, Any]:
    """Keys are remembered, as for admins. What a track born in the new schema lacks gets a default."""
    legacy, track = as_json(new["legacy"]), as_json(new["track_data"])
    album = track.get("album") or {}
    images = album.get("images") or [{}]
    status, created_at, name = new["status"], new["created_at"], new["submitted_by"]
    nickname = None if name == submitted_by(None) else name
    return {
        "id": kept(legacy, "id", gives=request_id, now=new["id"], otherwise=new["id"]),
        "track_uri": track.get("uri") or new["track_id"],
        "track_name": track.get("name") or "",
        "artist_name": ", ".join(artist.get("name") or "" for artist in track.get("artists") or []),
        "album_name": album.get("name"),
        "album_image_url": images[0].get("url"),
        "duration_ms": track.get("duration_ms") or 0,
        "requester_ip_hash": new["idempotency_key"] or "",
        "requester_nickname": kept(legacy, "requester_nickname", gives=submitted_by, now=name, otherwise=nickname),
        "user_session_id": legacy.get("user_session_id"),
        "status": kept(legacy, "status", gives=new_status, now=status, otherwise=status),
        "created_at": kept(legacy, "created_at", gives=moment, now=created_at, otherwise=without_zone(created_at)),
        "approved_at": without_zone(new["approved_at"]),
        "approved_by": legacy.get("approved_by"),
        "rejection_reason": legacy.get("rejection_reason"),
        "spotify_added_to_queue": legacy.get("spotify_added_to_queue", False),
        "spotify_added_to_playlist": legacy.get("spotify_added_to_playlist", False),
    }
