"""Spotify tokens: they belong to the first active admin, so their key moves when the admins change."""

from typing import Any, Final

from replicator import ALL, Query, Row
from transforms.admins import admin_id
from transforms.party import migration, moment, with_zone

SOURCE: Final = Query("token.sql", key=["id"], depends_on={"spotify_auth": ["id"], "admins": ALL})


@migration.transform(source=SOURCE, into="spotify_tokens")
def spotify_token(old: Row) -> dict[str, Any]:
    """The key hangs on the admins, so whose tokens these were is remembered."""
    return {
        "admin_id": admin_id(old["admin_id"]),
        "access_token": old["access_token"],
        "refresh_token": old["refresh_token"],
        "expires_at": with_zone(old["expires_at"]),
        "scope": old["scope"],
        "token_type": old["token_type"],
        "updated_at": moment(old["updated_at"]),
    }
