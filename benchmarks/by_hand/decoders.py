"""How many rows of 17 columns (923 bytes of JSON) a second are decoded: `python -m benchmarks.by_hand.decoders`."""

import json
import timeit

from replicator.follow.decoder import Decoder
from replicator.follow.pgoutput import PgoutputDecoder
from replicator.follow.wal2json import Wal2JsonDecoder
from tests import pgoutput_bytes as pg

ROUNDS, ROWS = 5, 20_000

COLUMNS: dict[str, str | int | bool | None] = {
    "id": "3f2b8a54-7f4e-4b7e-9c3e-1d2a3b4c5d6e",
    "track_uri": "spotify:track:4uLU6hMCjMI75M1A2tKUQC",
    "track_name": "A Song of Middling Length",
    "artist_name": "An Artist",
    "album_name": "An Album",
    "album_image_url": "https://i.scdn.co/image/ab67616d0000b273",
    "duration_ms": 213573,
    "requester_ip_hash": "9b74c9897bac770ffc029102a200c5de",
    "requester_nickname": None,
    "user_session_id": "s123456",
    "status": "pending",
    "created_at": "2026-11-22 09:23:43.1234",
    "approved_at": None,
    "approved_by": None,
    "rejection_reason": None,
    "spotify_added_to_queue": False,
    "spotify_added_to_playlist": True,
}
CHANGED = COLUMNS | {"status": "approved", "approved_at": "2026-11-22 09:24:01.5678", "approved_by": "dj"}


def wal2json(action: str, row: dict[str, str | int | bool | None]) -> bytes:
    document: dict[str, object] = {"action": action, "xid": 1234, "timestamp": "2026-11-22 09:23:43.123456+00"}
    document |= {"lsn": "0/1A0D7B8", "schema": "public", "table": "requests"}
    document["columns"] = [{"name": name, "value": value} for name, value in row.items()]
    if action == "U":
        document["identity"] = [{"name": "id", "value": row["id"]}]
    return json.dumps(document, separators=(",", ":")).encode()


def as_text(value: str | int | bool | None) -> str | None:
    if isinstance(value, bool):
        return "t" if value else "f"
    return None if value is None else str(value)


def rows_per_second(decoder: Decoder, payload: bytes) -> float:
    return ROWS / min(timeit.repeat(lambda: decoder.decode(payload), number=ROWS, repeat=ROUNDS))


def main() -> None:
    json_decoder = Wal2JsonDecoder([("public", None)])
    binary_decoder = PgoutputDecoder(["publication"])
    binary_decoder.decode(pg.relation(1, "public", "requests", [(name, name == "id") for name in COLUMNS]))
    for name, decoder, payload in (
        ("wal2json, insert", json_decoder, wal2json("I", COLUMNS)),
        ("wal2json, update", json_decoder, wal2json("U", CHANGED)),
        ("pgoutput, insert", binary_decoder, pg.insert(1, [as_text(value) for value in COLUMNS.values()])),
        ("pgoutput, update", binary_decoder, pg.update(1, [as_text(value) for value in CHANGED.values()])),
    ):
        print(f"{name}: {rows_per_second(decoder, payload):,.0f} rows/s")  # noqa: T201


if __name__ == "__main__":
    main()
