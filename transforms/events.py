"""Events: the one event, from its own settings, the settings by key, and the admins."""

from typing import Any, Final

from replicator import ALL, Query, Row, as_json
from transforms.admins import admin_id
from transforms.party import EVENT_ID, migration, with_zone

CONFIG: Final = (
    "event_title",
    "dj_name",
    "venue_info",
    "welcome_message",
    "secondary_message",
    "tertiary_message",
    "show_qr_code",
    "display_refresh_interval",
    "admin_polling_interval",
    "display_polling_interval",
    "now_playing_polling_interval",
    "sse_update_interval",
    "request_limit",
    "auto_approve",
    "force_polling",
    "message_text",
    "message_duration",
    "message_created_at",
)
"""The columns of event_settings that have the same name in ``config``."""

SOURCE: Final = Query(
    "event.sql",
    key=["id"],
    depends_on={"event_settings": ["id"], "settings": ALL, "admins": ALL, "spotify_auth": ["id"]},
)


def event_status(requests_page: bool | None, display_page: bool | None) -> str:
    """What the two page switches, which may be null, say together."""
    match requests_page, display_page:
        case True, True:
            return "live"
        case False, False:
            return "offline"
        case _:
            return "standby"


@migration.transform(source=SOURCE, into="events", key=lambda _: EVENT_ID)
def event(old: Row) -> dict[str, Any]:
    """The event exists even when event_settings is empty; ``legacy`` then says so."""
    settings = as_json(old["settings"])
    requests_page, display_page = old["requests_page_enabled"], old["display_page_enabled"]
    return {
        "id": EVENT_ID,
        "status": event_status(requests_page, display_page),
        "version": 0,
        "active_admin_id": None if old["admin_id"] is None else admin_id(old["admin_id"]),
        "device_id": settings.get("target_device_id"),
        "config": {
            **{column: old[column] for column in CONFIG},
            "pages_enabled": {"requests": requests_page, "display": display_page},
            "settings": settings,
        },
        "updated_at": with_zone(old["latest"]),
        "legacy": {
            "event_settings": {"updated_at": old["updated_at"]} if old["has_own"] else None,
            "settings": as_json(old["settings_updated_at"]),
            "spotify_auth": as_json(old["orphan_tokens"]),
        },
    }
