"""Admins: the same people, under UUIDs, with the user name as their e-mail address."""

from typing import Any, Final

from replicator import Row
from transforms.party import migration, moment, new_id, with_zone

LEGACY: Final = ("id", "is_active", "created_at")
"""What the new columns cannot hold as it was."""


def admin_id(old_id: str) -> str:
    """The new id of an admin."""
    return new_id("admins", old_id)


@migration.transform(source="admins", into="admins", key=lambda old: admin_id(old["id"]))
def admin(old: Row) -> dict[str, Any]:
    """An admin whose ``is_active`` was null could not log in, and is not active."""
    return {
        "id": admin_id(old["id"]),
        "email": old["username"],
        "password_hash": old["password_hash"],
        "name": old["username"],
        "is_active": bool(old["is_active"]),
        "last_login": with_zone(old["last_login"]),
        "created_at": moment(old["created_at"]),
        "legacy": {column: old[column] for column in LEGACY},
    }
