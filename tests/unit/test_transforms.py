"""The reference migration without a server: what it makes, and that the way back gives the old rows again."""

import copy
import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator import Query
from replicator.migration import Direction, Transform, as_rows
from tests import old_rows
from tests.old_rows import Party, Row
from transforms import migration
from transforms.events import event_status
from transforms.party import EVENT_ID, NEVER, moment, new_id, with_zone, without_zone

SQL = Path(__file__).parents[2] / "sql"
AT_LEISURE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PRIMARY_KEY = {"settings": "key", "spotify_tokens": "admin_id"}
NEW_TABLES = {"events", "admins", "spotify_tokens", "requests"}
OLD_TABLES = {"requests", "settings", "admins", "spotify_auth", "event_settings"}


# --- a stand-in for Postgres ------------------------------------------------------------------------------------------


def apply(direction: Direction, sources: dict[str, list[Row]], tables: set[str]) -> Party:
    """What all transforms of one direction make of these sources, as Postgres would give it back."""
    made: Party = {table: [] for table in tables}
    for each in migration.of(direction):
        for source in sources[each.source_name]:
            made[each.into] += [stored(row) for row in as_rows(each.function(source))]
    return made


def stored(row: Row) -> Row:
    """A row as it is read again: documents are jsonb, which keeps no order of keys."""
    return {
        column: json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value
        for column, value in row.items()
    }


def sources_of_old(party: Party) -> dict[str, list[Row]]:
    """The old tables, with the two queries over them."""
    admin = first_active(party["admins"])
    tokens = [row | {"admin_id": admin["id"]} for row in party["spotify_auth"] if admin]
    return {**party, "event": [event_source(party)], "token": tokens}


def event_source(party: Party) -> Row:
    empty = dict.fromkeys(OLD_EVENT)
    own = next(iter(party["event_settings"]), None)
    admin = first_active(party["admins"])
    orphan = next(iter(party["spotify_auth"]), None) if admin is None else None
    times = [row["updated_at"] for row in [own or empty, *party["settings"]] if row["updated_at"] is not None]
    return {
        **(own or empty),
        "id": 1,
        "has_own": own is not None,
        "settings": json.dumps({row["key"]: row["value"] for row in party["settings"]}),
        "settings_updated_at": json.dumps({row["key"]: row["updated_at"] for row in party["settings"]}),
        "latest": max(times, default="-infinity"),
        "admin_id": admin and admin["id"],
        "orphan_tokens": orphan and json.dumps(orphan),
    }


def first_active(admins: list[Row]) -> Row | None:
    active = [row for row in admins if row["is_active"]]
    return min(active, key=lambda row: (row["created_at"] is None, row["created_at"] or "", row["id"]), default=None)


def sources_of_new(new: Party) -> dict[str, list[Row]]:
    """The new tables, with the query over them."""
    tokens = {row["admin_id"]: row for row in new["spotify_tokens"]}
    no_token = dict.fromkeys(["admin_id", "access_token", "refresh_token", "expires_at", "scope", "token_type"])
    joined = [tokens.get(event["active_admin_id"], no_token) | event for event in new["events"]]
    for row, event in zip(joined, new["events"], strict=True):
        row["updated_at"] = tokens.get(event["active_admin_id"], {}).get("updated_at")
    return {**new, "active_token": joined}


def forward(party: Party) -> Party:
    return apply("forward", sources_of_old(party), NEW_TABLES)


def back(new: Party) -> Party:
    return apply("reverse", sources_of_new(new), OLD_TABLES)


def in_order(party: Party) -> Party:
    return {
        table: sorted(rows, key=lambda row: str(row[PRIMARY_KEY.get(table, "id")])) for table, rows in party.items()
    }


# --- examples ---------------------------------------------------------------------------------------------------------

OLD_REQUEST: Row = {
    "id": "request-1",
    "track_uri": "spotify:track:4uLU6hMCjMI75M1A2tKUQC",
    "track_name": "Never Gonna Give You Up",
    "artist_name": "Rick Astley, really",
    "album_name": "Whenever You Need Somebody",
    "album_image_url": "https://images.example/1.jpg",
    "duration_ms": 213573,
    "requester_ip_hash": "hash",
    "requester_nickname": None,
    "user_session_id": "session",
    "status": "failed",
    "created_at": "2024-06-01 20:00:00.5",
    "approved_at": None,
    "approved_by": None,
    "rejection_reason": "again?",
    "spotify_added_to_queue": None,
    "spotify_added_to_playlist": True,
}
OLD_ADMIN: Row = {
    "id": "0b0f2b5e-6a5e-4f0e-9c53-0d6e1c2a7f11",
    "username": "DJ",
    "password_hash": "$2b$",
    "created_at": None,
    "last_login": "2024-06-01 19:00:00",
    "is_active": None,
}
OLD_TOKENS: Row = {
    "id": 1,
    "access_token": "access",
    "refresh_token": "refresh",
    "expires_at": "2024-06-01 21:00:00",
    "scope": "streaming",
    "token_type": "Bearer",
    "updated_at": "2024-06-01 20:00:00",
}
OLD_EVENT: Row = {
    "id": 1,
    "event_title": "Summer",
    "dj_name": None,
    "venue_info": "",
    "welcome_message": "Hi",
    "secondary_message": None,
    "tertiary_message": None,
    "show_qr_code": True,
    "display_refresh_interval": 30,
    "admin_polling_interval": 5,
    "display_polling_interval": 10,
    "now_playing_polling_interval": 3,
    "sse_update_interval": 1,
    "request_limit": None,
    "auto_approve": False,
    "force_polling": None,
    "requests_page_enabled": True,
    "display_page_enabled": True,
    "message_text": None,
    "message_duration": None,
    "message_created_at": "2024-06-01 18:00:00",
    "updated_at": "2024-06-01 20:30:00",
}
OLD_SETTINGS: list[Row] = [
    {"key": "target_device_id", "value": "device", "updated_at": "2024-06-01 20:00:00"},
    {"key": "party_name", "value": '{"not": "a document"}', "updated_at": None},
]
PARTY: Party = {
    "requests": [OLD_REQUEST],
    "settings": OLD_SETTINGS,
    "admins": [OLD_ADMIN | {"is_active": True}],
    "spotify_auth": [OLD_TOKENS],
    "event_settings": [OLD_EVENT],
}


def test_a_request() -> None:
    (made,) = forward(PARTY)["requests"]
    assert made | {"track_data": json.loads(made["track_data"]), "legacy": json.loads(made["legacy"])} == {
        "id": new_id("requests", "request-1"),
        "event_id": EVENT_ID,
        "track_id": "spotify:track:4uLU6hMCjMI75M1A2tKUQC",
        "track_data": {
            "id": "spotify:track:4uLU6hMCjMI75M1A2tKUQC",
            "uri": "spotify:track:4uLU6hMCjMI75M1A2tKUQC",
            "name": "Never Gonna Give You Up",
            "artists": [{"name": "Rick Astley, really"}],
            "album": {"name": "Whenever You Need Somebody", "images": [{"url": "https://images.example/1.jpg"}]},
            "duration_ms": 213573,
        },
        "submitted_by": "Anonymous",
        "status": "rejected",
        "idempotency_key": "hash",
        "created_at": "2024-06-01 20:00:00.5+00",
        "approved_at": None,
        "rejected_at": "2024-06-01 20:00:00.5+00",
        "played_at": None,
        "legacy": {
            "id": "request-1",
            "status": "failed",
            "created_at": "2024-06-01 20:00:00.5",
            "requester_nickname": None,
            "user_session_id": "session",
            "approved_by": None,
            "rejection_reason": "again?",
            "spotify_added_to_queue": None,
            "spotify_added_to_playlist": True,
        },
    }


@pytest.mark.parametrize(
    "old, status, rejected_at, played_at",
    [
        ("pending", "pending", None, None),
        ("approved", "approved", None, None),
        ("queued", "approved", None, None),
        ("rejected", "rejected", "2024-06-01 20:00:00.5+00", None),
        ("failed", "rejected", "2024-06-01 20:00:00.5+00", None),
        ("played", "played", None, "2024-06-01 21:00:00+00"),
    ],
)
def test_the_status_of_a_request(old: str, status: str, rejected_at: str | None, played_at: str | None) -> None:
    (made,) = forward(PARTY | {"requests": [OLD_REQUEST | {"status": old, "approved_at": "2024-06-01 21:00:00"}]})[
        "requests"
    ]
    assert (made["status"], made["rejected_at"], made["played_at"]) == (status, rejected_at, played_at)
    assert made["approved_at"] == "2024-06-01 21:00:00+00"


def test_an_admin() -> None:
    (made,) = forward(PARTY | {"admins": [OLD_ADMIN]})["admins"]
    assert made | {"legacy": json.loads(made["legacy"])} == {
        "id": OLD_ADMIN["id"],
        "email": "DJ",
        "password_hash": "$2b$",
        "name": "DJ",
        "is_active": False,
        "last_login": "2024-06-01 19:00:00+00",
        "created_at": "-infinity",
        "legacy": {"id": OLD_ADMIN["id"], "is_active": None, "created_at": None},
    }


def test_the_event() -> None:
    (made,) = forward(PARTY)["events"]
    config = {column: OLD_EVENT[column] for column in OLD_EVENT if not column.endswith(("id", "enabled", "updated_at"))}
    assert made | {"config": json.loads(made["config"]), "legacy": json.loads(made["legacy"])} == {
        "id": EVENT_ID,
        "status": "live",
        "version": 0,
        "active_admin_id": OLD_ADMIN["id"],
        "device_id": "device",
        "config": {
            **config,
            "pages_enabled": {"requests": True, "display": True},
            "settings": {"target_device_id": "device", "party_name": '{"not": "a document"}'},
        },
        "updated_at": "2024-06-01 20:30:00+00",
        "legacy": {
            "event_settings": {"updated_at": "2024-06-01 20:30:00"},
            "settings": {"target_device_id": "2024-06-01 20:00:00", "party_name": None},
            "spotify_auth": None,
        },
    }


@pytest.mark.parametrize("requests_page", [True, False, None])
@pytest.mark.parametrize("display_page", [True, False, None])
def test_the_status_of_the_event(requests_page: bool | None, display_page: bool | None) -> None:
    expected: dict[tuple[bool | None, bool | None], str] = {(True, True): "live", (False, False): "offline"}
    assert event_status(requests_page, display_page) == expected.get((requests_page, display_page), "standby")


def test_the_event_exists_in_an_empty_old_schema() -> None:
    nothing: Party = {table: [] for table in OLD_TABLES}
    (made,) = forward(nothing)["events"]
    assert (made["id"], made["active_admin_id"], made["updated_at"]) == (EVENT_ID, None, NEVER)
    assert back(forward(nothing)) == nothing


def test_the_tokens_belong_to_the_active_admin() -> None:
    (made,) = forward(PARTY)["spotify_tokens"]
    assert made == {
        "admin_id": OLD_ADMIN["id"],
        "access_token": "access",
        "refresh_token": "refresh",
        "expires_at": "2024-06-01 21:00:00+00",
        "scope": "streaming",
        "token_type": "Bearer",
        "updated_at": "2024-06-01 20:00:00+00",
    }


def test_tokens_without_an_admin_have_no_row_but_are_not_lost() -> None:
    party = PARTY | {"admins": [OLD_ADMIN | {"is_active": False}]}
    new = forward(party)
    assert new["spotify_tokens"] == []
    assert json.loads(new["events"][0]["legacy"])["spotify_auth"] == OLD_TOKENS
    assert back(new)["spotify_auth"] == [OLD_TOKENS]


# --- what holds for every content -------------------------------------------------------------------------------------


@AT_LEISURE
@given(old_rows.parties)
def test_there_and_back(party: Party) -> None:
    assert in_order(back(forward(party))) == in_order(party)


@AT_LEISURE
@given(old_rows.parties)
def test_transforms_are_pure(party: Party) -> None:
    kept = copy.deepcopy(party)
    once, twice = forward(party), forward(party)
    assert once == twice
    assert party == kept
    assert back(once) == back(twice)


@AT_LEISURE
@given(old_rows.parties)
def test_all_rows_of_a_transform_have_the_same_columns(party: Party) -> None:
    example = forward(PARTY)
    new = forward(party)
    for made, expected in ((new, example), (back(new), back(example))):
        for table, rows in made.items():
            assert all(row.keys() == expected[table][0].keys() for row in rows), table


@AT_LEISURE
@given(old_rows.parties)
def test_the_key_function_gives_the_key_of_the_rows(party: Party) -> None:
    new = forward(party)
    directions: dict[Direction, dict[str, list[Row]]] = {
        "forward": sources_of_old(party),
        "reverse": sources_of_new(new),
    }
    for direction, sources in directions.items():
        for each in migration.of(direction):
            if each.key is None:
                continue
            for source in sources[each.source_name]:
                for row in as_rows(each.function(source)):
                    assert each.key({"id": source["id"]}) == row["id"], each.name


def test_remembered_keys_are_those_that_do_not_follow_from_the_source_key() -> None:
    remembered = {(each.direction, each.into) for each in migration.transforms if each.key is None}
    assert remembered == {
        ("forward", "spotify_tokens"),
        ("reverse", "requests"),
        ("reverse", "admins"),
        ("reverse", "settings"),
    }


@AT_LEISURE
@given(st.sets(old_rows.ids, min_size=2))
def test_two_old_ids_never_become_one(old: set[str]) -> None:
    made = {new_id("requests", each) for each in old}
    assert len(made) == len(old)
    assert all(str(UUID(each)) == each for each in made)


@AT_LEISURE
@given(st.uuids())
def test_an_id_stays_if_it_is_spelt_as_postgres_spells_it(value: UUID) -> None:
    assert new_id("requests", str(value)) == str(value)
    for other in (value.urn, f"{{{value}}}", f"{value}\n", value.hex):
        assert new_id("requests", other) != str(value)


@pytest.mark.parametrize("position", [0, 9, 14, 19, 24, 35])
def test_an_id_with_one_capital_is_not_that_of_the_same_uuid(position: int) -> None:
    canonical = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
    capital = f"{canonical[:position]}A{canonical[position + 1 :]}"
    assert UUID(capital) == UUID(canonical)
    assert new_id("requests", capital) not in (capital, canonical)


def test_ids_are_made_the_same_for_ever() -> None:
    assert new_id("requests", "x") == "40b09314-3320-56ed-9a8c-8713059d2e7a"
    assert EVENT_ID == "bec2af35-0bf8-553c-9b10-cd0a9d637f10"
    assert new_id("admins", "x") != new_id("requests", "x")


@pytest.mark.parametrize(
    "old, new",
    [
        (None, None),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        ("2024-02-29 12:30:00.5", "2024-02-29 12:30:00.5+00"),
        ("0044-03-15 00:00:00 BC", "0044-03-15 00:00:00+00 BC"),
    ],
)
def test_times_get_a_zone(old: str | None, new: str | None) -> None:
    assert with_zone(old) == new
    assert without_zone(new) == old


def test_a_missing_time_is_before_all_others() -> None:
    assert moment(None) == "-infinity"
    assert moment("2024-02-29 12:30:00") == "2024-02-29 12:30:00+00"


# --- the declarations -------------------------------------------------------------------------------------------------


def tables_read(each: Transform) -> set[str]:
    return set(each.source.depends_on) if isinstance(each.source, Query) else {each.source}


def test_every_table_is_accounted_for() -> None:
    read = set().union(*map(tables_read, migration.of("forward")))
    assert read == OLD_TABLES
    assert set(migration.retired) == {"oauth_sessions", "notifications"}
    assert {each.into for each in migration.of("forward")} == NEW_TABLES
    assert {each.into for each in migration.of("reverse")} == OLD_TABLES
    assert set().union(*map(tables_read, migration.of("reverse"))) == NEW_TABLES


def queries() -> list[Any]:
    return [pytest.param(each, id=each.source_name) for each in migration.transforms if isinstance(each.source, Query)]


@pytest.mark.parametrize("each", queries())
def test_a_query_depends_on_every_table_that_it_reads(each: Transform) -> None:
    assert isinstance(each.source, Query)
    schema = migration.old if each.direction == "forward" else migration.new
    tables = re.findall(r"(?:FROM|JOIN)\s+(\w+)\.(\w+)", (SQL / each.source.sql).read_text())
    assert {of for of, _ in tables} == {schema}
    assert {table for _, table in tables} == set(each.source.depends_on)


def test_the_queries_agree_on_the_first_active_admin() -> None:
    """Otherwise the event could name one admin while the tokens belong to another."""
    choice = re.compile(r"SELECT id FROM public\.admins .*? LIMIT 1", re.DOTALL)
    (for_event,) = choice.findall((SQL / "event.sql").read_text())
    (for_token,) = choice.findall((SQL / "token.sql").read_text())
    assert for_event == for_token


# --- the way back, after the new application has been at work ---------------------------------------------------------

BORN: dict[str, Row] = {
    "requests": {
        "id": "5f7b0c5e-0000-4000-8000-000000000001",
        "event_id": EVENT_ID,
        "track_id": "4uLU6hMCjMI75M1A2tKUQC",
        "track_data": json.dumps({"name": "Song", "artists": [{"name": "A"}, {"name": "B"}], "album": None}),
        "submitted_by": "Ann",
        "status": "approved",
        "idempotency_key": None,
        "created_at": "2025-01-01 00:00:00+00",
        "approved_at": "2025-01-01 00:01:00+00",
        "rejected_at": None,
        "played_at": None,
        "legacy": "{}",
    },
    "admins": {
        "id": "5f7b0c5e-0000-4000-8000-000000000002",
        "email": "ann@example.org",
        "password_hash": "hash",
        "name": None,
        "is_active": False,
        "last_login": None,
        "created_at": "2025-01-01 00:00:00+00",
        "legacy": "{}",
    },
}


def old_of(table: str, new: Row) -> list[Row]:
    """The old rows of one table, when this is the one new row of its own."""
    (each,) = [each for each in migration.of("reverse") if each.into == table]
    return list(as_rows(each.function(new)))


def new_of(table: str, **changes: Any) -> Row:
    """A migrated row that the new application has changed; documents are given as Python."""
    (row,) = forward(PARTY)[table]
    return stored({**row, **changes})


def test_a_request_born_in_the_new_schema() -> None:
    assert old_of("requests", BORN["requests"]) == [
        {
            "id": "5f7b0c5e-0000-4000-8000-000000000001",
            "track_uri": "4uLU6hMCjMI75M1A2tKUQC",
            "track_name": "Song",
            "artist_name": "A, B",
            "album_name": None,
            "album_image_url": None,
            "duration_ms": 0,
            "requester_ip_hash": "",
            "requester_nickname": "Ann",
            "user_session_id": None,
            "status": "approved",
            "created_at": "2025-01-01 00:00:00",
            "approved_at": "2025-01-01 00:01:00",
            "approved_by": None,
            "rejection_reason": None,
            "spotify_added_to_queue": False,
            "spotify_added_to_playlist": False,
        }
    ]


def test_a_request_whose_track_is_empty() -> None:
    (old,) = old_of("requests", BORN["requests"] | {"track_data": "{}", "submitted_by": "Anonymous"})
    required = {"track_name": "", "artist_name": "", "duration_ms": 0, "requester_nickname": None}
    assert {column: old[column] for column in required} == required


def test_the_uri_of_a_track_is_what_the_old_application_plays() -> None:
    (old,) = old_of("requests", BORN["requests"] | {"track_data": '{"id": "4uLU", "uri": "spotify:track:4uLU"}'})
    assert old["track_uri"] == "spotify:track:4uLU"


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {"status": "failed", "requester_nickname": None}),
        ({"status": "approved"}, {"status": "approved", "rejection_reason": "again?"}),
        ({"submitted_by": "Ann"}, {"requester_nickname": "Ann"}),
        ({"approved_at": "2025-01-01 00:00:00+00"}, {"approved_at": "2025-01-01 00:00:00"}),
        ({"created_at": "2025-01-01 00:00:00+00"}, {"created_at": "2025-01-01 00:00:00"}),
        ({"idempotency_key": "other"}, {"requester_ip_hash": "other"}),
    ],
)
def test_a_request_that_the_new_application_changed(changes: Row, expected: Row) -> None:
    (old,) = old_of("requests", new_of("requests", **changes))
    assert old == OLD_REQUEST | expected


def test_a_copy_of_a_migrated_row_does_not_take_its_old_id() -> None:
    other = "5f7b0c5e-0000-4000-8000-000000000003"
    assert old_of("requests", new_of("requests", id=other))[0]["id"] == other
    assert old_of("admins", new_of("admins", id=other))[0]["id"] == other


def test_an_admin_born_in_the_new_schema() -> None:
    assert old_of("admins", BORN["admins"]) == [
        {
            "id": "5f7b0c5e-0000-4000-8000-000000000002",
            "username": "ann@example.org",
            "password_hash": "hash",
            "created_at": "2025-01-01 00:00:00",
            "last_login": None,
            "is_active": False,
        }
    ]


def test_an_admin_that_the_new_application_activated() -> None:
    (new,) = forward(PARTY | {"admins": [OLD_ADMIN]})["admins"]
    assert old_of("admins", new) == [OLD_ADMIN]
    assert old_of("admins", new | {"is_active": True}) == [OLD_ADMIN | {"is_active": True}]


def config(**changes: Any) -> dict[str, Any]:
    (row,) = forward(PARTY)["events"]
    return {**json.loads(row["config"]), **changes}


def test_the_event_settings_follow_the_config() -> None:
    pages = {"requests": False, "display": True}
    changed = new_of("events", config=config(dj_name="Ann", pages_enabled=pages), status="standby", version=3)
    assert old_of("event_settings", changed) == [OLD_EVENT | {"dj_name": "Ann", "requests_page_enabled": False}]


@pytest.mark.parametrize("status, switches", [("standby", (False, True)), ("offline", (False, False))])
def test_the_page_switches_follow_a_status_that_they_contradict(status: str, switches: tuple[bool, bool]) -> None:
    (old,) = old_of("event_settings", new_of("events", status=status))
    assert (old["requests_page_enabled"], old["display_page_enabled"]) == switches
    assert event_status(*switches) == status


def test_event_settings_that_were_empty_get_a_row_when_there_is_something_to_say() -> None:
    (event,) = forward(PARTY | {"event_settings": []})["events"]
    assert old_of("event_settings", event) == []
    titled = event | {"config": json.dumps(json.loads(event["config"]) | {"event_title": "New"})}
    (old,) = old_of("event_settings", titled)
    assert old["event_title"] == "New"
    assert old["updated_at"] == without_zone(event["updated_at"])


def test_an_event_that_was_made_again_in_the_new_schema() -> None:
    event = new_of("events", status="live", config={}, device_id=None, legacy={})
    (old,) = old_of("event_settings", event)
    assert (old["id"], old["requests_page_enabled"], old["event_title"]) == (1, True, None)
    assert old_of("settings", event) == []


def test_other_events_have_no_place_in_the_old_schema() -> None:
    other = new_of("events", id="5f7b0c5e-0000-4000-8000-000000000004")
    for table in ("event_settings", "settings"):
        assert old_of(table, other) == []
    assert old_of("spotify_auth", other | {"admin_id": BORN["admins"]["id"]}) == []


def test_the_keys_of_other_events_are_not_that_of_the_old_one() -> None:
    """Else the end of another event would delete the old row."""
    for each in migration.of("reverse"):
        if each.key is not None:
            assert each.key({"id": EVENT_ID}) == 1
            assert each.key({"id": "5f7b0c5e-0000-4000-8000-000000000004"}) != 1


def test_settings_that_the_new_application_changed() -> None:
    settings = {"party_name": "Other", "limit": 5, "ratio": 1.5, "on": True, "list": ["é", 0.5], "none": None}
    event = new_of("events", config=config(settings=settings), updated_at="2025-01-01 00:00:00+00")
    old = {row["key"]: (row["value"], row["updated_at"]) for row in old_of("settings", event)}
    assert old == {
        "party_name": ("Other", None),
        "limit": ("5", "2025-01-01 00:00:00"),
        "ratio": ("1.5", "2025-01-01 00:00:00"),
        "on": ("true", "2025-01-01 00:00:00"),
        "list": ('["é", 0.5]', "2025-01-01 00:00:00"),
        "target_device_id": ("device", "2024-06-01 20:00:00"),
    }


@pytest.mark.parametrize("device, expected", [("other", {"other"}), (None, set())])
def test_the_device_of_the_event_becomes_the_setting(device: str | None, expected: set[str]) -> None:
    old = old_of("settings", new_of("events", device_id=device))
    assert {row["value"] for row in old if row["key"] == "target_device_id"} == expected


def test_tokens_that_the_new_application_deleted_stay_deleted() -> None:
    new = forward(PARTY) | {"spotify_tokens": []}
    assert back(new)["spotify_auth"] == []


def test_of_several_admins_tokens_the_active_admins_go_back() -> None:
    new = forward(PARTY)
    other = BORN["admins"]["id"]
    new["spotify_tokens"].append(new["spotify_tokens"][0] | {"admin_id": other, "access_token": "theirs"})
    assert back(new)["spotify_auth"] == [OLD_TOKENS]
    new["events"][0]["active_admin_id"] = other
    assert back(new)["spotify_auth"] == [OLD_TOKENS | {"access_token": "theirs"}]


def test_tokens_whose_time_was_missing() -> None:
    for time in (None, "-infinity"):  # the new table has no room to tell these apart
        tokens = [OLD_TOKENS | {"updated_at": time}]
        assert back(forward(PARTY | {"spotify_auth": tokens}))["spotify_auth"] == [OLD_TOKENS | {"updated_at": None}]
