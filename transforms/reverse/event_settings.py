"""Old event_settings, from the event that came from them."""

from typing import Any, Final

from replicator import Row, as_json
from transforms.events import CONFIG, event_status
from transforms.party import EVENT_ID, OLD_EVENT_ID, migration, without_zone

PAGES: Final = {"live": (True, True), "standby": (False, True), "offline": (False, False)}
"""The page switches for a status that the new application set without touching them."""


def old_event_id(new: Row) -> int:
    """The id that the old schema knows the event by. Other events have no old row: 0, which no row can have."""
    return OLD_EVENT_ID if new["id"] == EVENT_ID else 0


@migration.reverse(source="events", into="event_settings", key=old_event_id)
def old_event_settings(new: Row) -> dict[str, Any] | None:
    """None for an event born in the new schema, and where the old table had no row and nothing has been set since."""
    if new["id"] != EVENT_ID:
        return None
    config, legacy = as_json(new["config"]), as_json(new["legacy"])
    pages = config.get("pages_enabled") or {}
    requests_page, display_page = pages.get("requests"), pages.get("display")
    if event_status(requests_page, display_page) != new["status"]:
        requests_page, display_page = PAGES[new["status"]]
    switches = {"requests_page_enabled": requests_page, "display_page_enabled": display_page}
    columns = {column: config.get(column) for column in CONFIG} | switches
    came_from = legacy.get("event_settings")
    if came_from is None and all(value is None for value in columns.values()):
        return None
    updated_at = without_zone(new["updated_at"]) if came_from is None else came_from["updated_at"]
    return {"id": OLD_EVENT_ID, **columns, "updated_at": updated_at}
