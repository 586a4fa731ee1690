"""Old admins, from new ones."""

from typing import Any

from replicator import Row, as_json
from transforms.admins import admin_id
from transforms.party import kept, migration, moment, without_zone


@migration.reverse(source="admins", into="admins")
def old_admin(new: Row) -> dict[str, Any]:
    """The old id cannot be told from the new one, so keys are remembered. The user name is the e-mail address."""
    legacy, active, created_at = as_json(new["legacy"]), new["is_active"], new["created_at"]
    return {
        "id": kept(legacy, "id", gives=admin_id, now=new["id"], otherwise=new["id"]),
        "username": new["email"],
        "password_hash": new["password_hash"],
        "created_at": kept(legacy, "created_at", gives=moment, now=created_at, otherwise=without_zone(created_at)),
        "last_login": without_zone(new["last_login"]),
        "is_active": kept(legacy, "is_active", gives=bool, now=active, otherwise=active),
    }
