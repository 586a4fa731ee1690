"""Old spotify_auth, from the tokens of the active admin."""

from typing import Any, Final

from replicator import ALL, Query, Row, as_json
from transforms.party import EVENT_ID, NEVER, OLD_EVENT_ID, migration, without_zone
from transforms.reverse.event_settings import old_event_id

SOURCE: Final = Query("active_token.sql", key=["id"], depends_on={"events": ["id"], "spotify_tokens": ALL})


@migration.reverse(source=SOURCE, into="spotify_auth", key=old_event_id)
def old_spotify_auth(new: Row) -> dict[str, Any] | None:
    """The old table has room for one admin's tokens; when none has any, it is those that no admin could own."""
    if new["id"] != EVENT_ID:
        return None
    if new["admin_id"] is None:
        orphan: dict[str, Any] | None = as_json(new["legacy"]).get("spotify_auth")
        return orphan
    return {
        "id": OLD_EVENT_ID,
        "access_token": new["access_token"],
        "refresh_token": new["refresh_token"],
        "expires_at": without_zone(new["expires_at"]),
        "scope": new["scope"],
        "token_type": new["token_type"],
        "updated_at": None if new["updated_at"] == NEVER else without_zone(new["updated_at"]),
    }
