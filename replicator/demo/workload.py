"""What the demo's writers do: whole transactions, chosen at random, on keys that one writer alone works on."""

import random
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID
from zlib import crc32

from replicator.demo.application import Application, Ask, Found, Song
from replicator.demo.ledger import Entry
from replicator.demo.seed import ADMINS, SETTINGS
from replicator.demo.task import Keys, Task, Write

STATUSES: Final = ("approved", "rejected", "queued", "failed", "played")
GUESTS: Final = ("Ada", "Çelik", "Ωμέγα", "👩‍🎤", "O'Neil", 'Ann "DJ" B.')
SONGS: Final = ("Blue Monday", "Jóga", "上を向いて歩こう", "Ça plane pour moi", "\\o/", "100% Pure Love")
NOTES_KEPT: Final = 300
ADMINS_KEPT: Final = 5
BULK: Final = 20


class Workload:
    """One writer's share. No two writers work on the same row, so that the last acknowledged version is the last."""

    def __init__(self, held: Found, *, worker: int = 0, workers: int = 1) -> None:
        self._worker = worker
        self._chance = random.Random()
        self._count = 0
        self._keys: dict[str, Keys] = {}
        for table, key in held:
            if self._shares(table, key, workers):
                self._of(table).add(key)
        self._requests_kept = len(self._of("requests"))
        self._choices: list[tuple[int, Callable[[], Task | None]]] = [
            (20, self._ask), (40, self._review), (8, self._correct), (10, self._withdraw), (3, self._renumber),
            (1, self._review_many), (4, self._change_setting), (4, self._change_admins), (3, self._log_in_to_spotify),
            (2, self._give_up),
        ]  # fmt: skip
        if worker == 0:
            self._choices += [(3, self._announce), (3, self._change_tokens), (2, self._hand_over)]
        self._active = dict.fromkeys(ADMINS, False)

    def next(self) -> Task:
        """The next transaction."""
        [choose] = self._chance.choices(
            [choose for _, choose in self._choices], [weight for weight, _ in self._choices]
        )
        return choose() or self._ask()

    def done(self, entries: Iterable[Entry]) -> None:
        """Remember what there is now."""
        for entry in entries:
            if entry.version is None:
                self._of(entry.table).discard(entry.key)
            elif entry.key not in ADMINS:
                self._of(entry.table).add(entry.key)

    def _of(self, table: str) -> Keys:
        return self._keys.setdefault(table, Keys())

    def _shares(self, table: str, key: str, workers: int) -> bool:
        if table in ("event_settings", "spotify_auth"):
            return self._worker == 0
        if table == "admins" and key in ADMINS:
            return False  # the first worker hands the event over among them, and does nothing else with them
        return crc32(f"{table} {key}".encode()) % workers == self._worker

    def _version(self, what: str) -> str:
        self._count += 1
        return f"{what} {self._worker}.{self._count}"

    def _guest(self) -> str:
        return self._version(self._chance.choice(GUESTS))

    def _id(self, kind: str) -> str:
        """Mostly a UUID, but old ids may be any text. Never one that an earlier run has given."""
        number = self._chance.getrandbits(128)
        return f"{kind}_{number:x}" if self._chance.random() < 0.1 else str(UUID(int=number, version=4))

    # ---- requests

    def _ask(self) -> Task:
        number = self._chance.randrange(4000)
        song = Song(
            uri=f"spotify:track:{number:022d}",
            name=self._chance.choice(SONGS),
            artist=f"Artist {number % 500}",
            album=f"Album {number % 900}" if number % 7 else None,
            cover=f"https://i.scdn.example/{number % 900}" if number % 5 else None,
            milliseconds=150_000 + number,
        )
        ask = Ask(id=self._id("req"), guest=self._guest(), song=song, address=f"address {number % 800}")
        return Task(lambda app: app.ask(ask), (Write("requests", ask.id, ask.guest, born=True),))

    def _review(self) -> Task | None:
        if not (requests := self._of("requests")):
            return None
        request, status, guest = requests.any(self._chance), self._chance.choice(STATUSES), self._guest()
        note, message = self._id("note"), f"{guest}: {status}"
        kind = "rejection" if status in ("rejected", "failed") else "approval"

        def run(app: Application) -> None:
            app.review(request, status, guest)
            app.notify(note, kind, message)

        return Task(run, (Write("requests", request, guest), Write("notifications", note, message, born=True)))

    def _review_many(self) -> Task | None:
        chosen = [(key, self._guest()) for key in self._of("requests").some(self._chance, BULK)]
        status = self._chance.choice(STATUSES)

        def run(app: Application) -> None:
            for request, guest in sorted(chosen):
                app.review(request, status, guest)

        return Task(run, tuple(Write("requests", *each) for each in chosen)) if chosen else None

    def _correct(self) -> Task | None:
        if not (requests := self._of("requests")):
            return None
        request, guest = requests.any(self._chance), self._guest()
        return Task(lambda app: app.correct(request, guest), (Write("requests", request, guest),))

    def _withdraw(self) -> Task | None:
        """As many as there are too many, so that their number stays about the same."""
        requests = self._of("requests")
        if len(requests) < max(BULK, self._requests_kept):
            return None
        chosen = requests.some(self._chance, min(3, 1 + len(requests) - self._requests_kept))

        def run(app: Application) -> None:
            for request in chosen:
                app.withdraw(request)

        return Task(run, tuple(Write("requests", request, None) for request in chosen))

    def _renumber(self) -> Task | None:
        if not (requests := self._of("requests")):
            return None
        request, other, guest = requests.any(self._chance), self._id("req"), self._guest()

        def run(app: Application) -> None:
            app.renumber(request, other)
            app.correct(other, guest)

        return Task(run, (Write("requests", request, None), Write("requests", other, guest, born=True)))

    def _give_up(self) -> Task:
        """Write, and roll back: none of it may be seen anywhere."""
        tasks = [self._ask(), *(each for each in (self._review(), self._change_setting()) if each)]

        def run(app: Application) -> None:
            for task in tasks:
                task.run(app)

        return Task(run, (), rolls_back=True)

    # ---- settings and the event

    def _change_setting(self) -> Task:
        keys = self._of("settings")
        extra = f"note of writer {self._worker}"
        if extra in keys and self._chance.random() < 0.3:
            return Task(lambda app: app.unset(extra), (Write("settings", extra, None),))
        key = keys.any(self._chance) if keys and self._chance.random() < 0.7 else extra
        value = self._version(SETTINGS.get(key, key))
        return Task(lambda app: app.set(key, value), (Write("settings", key, value),))

    def _announce(self) -> Task:
        title, pages = self._version("Night"), (self._chance.random() < 0.8, self._chance.random() < 0.8)
        return Task(lambda app: app.announce(title, *pages), (Write("event_settings", "1", title),))

    # ---- admins and Spotify

    def _change_admins(self) -> Task:
        admins = self._of("admins")
        chosen = self._chance.random()
        password_hash = self._version("scrypt")
        if not admins or (chosen < 0.2 and len(admins) < ADMINS_KEPT):
            admin = self._id("dj")
            username = f"{admin}@party.example"
            return Task(
                lambda app: app.hire(admin, username, password_hash),
                (Write("admins", admin, password_hash, born=True),),
            )
        admin = admins.any(self._chance)
        if chosen < 0.35 and len(admins) > 1:
            return Task(lambda app: app.dismiss(admin), (Write("admins", admin, None),))
        if chosen < 0.5:
            return self._rename(admin, password_hash)
        return Task(lambda app: app.log_in(admin, password_hash), (Write("admins", admin, password_hash),))

    def _rename(self, admin: str, password_hash: str) -> Task:
        other = self._id("dj")

        def run(app: Application) -> None:
            app.rename(admin, other)
            app.log_in(other, password_hash)

        return Task(run, (Write("admins", admin, None), Write("admins", other, password_hash, born=True)))

    def _hand_over(self) -> Task:
        """Let one of the first admins in or no longer, but never lock the last one out; at the start let all in."""
        some = any(self._active.values())
        chosen = [self._chance.choice(ADMINS)] if some else list(ADMINS)
        password_hash = self._version("scrypt")
        for admin in chosen:
            self._active[admin] = not self._active[admin] or sum(self._active.values()) == 1
        active = dict(self._active)

        def run(app: Application) -> None:
            for admin in chosen:
                app.activate(admin, active[admin], password_hash)

        return Task(run, tuple(Write("admins", admin, password_hash) for admin in chosen))

    def _change_tokens(self) -> Task:
        if self._of("spotify_auth") and self._chance.random() < 0.2:
            return Task(lambda app: app.log_out(), (Write("spotify_auth", "1", None),))
        token = self._version("token")
        return Task(lambda app: app.refresh(token), (Write("spotify_auth", "1", token),))

    # ---- what the new schema has no place for

    def _log_in_to_spotify(self) -> Task:
        """Begin or end a login, and clear away a few old notifications."""
        states, notes = self._of("oauth_sessions"), self._of("notifications")
        ended = states.any(self._chance) if len(states) > 3 else None
        state, verifier = self._id("state"), self._version("verifier")
        shown = notes.some(self._chance, max(0, min(BULK * 3, len(notes) - NOTES_KEPT)))

        def run(app: Application) -> None:
            app.begin_login(state, verifier)
            if ended is not None:
                app.end_login(ended)
            for note in shown:
                app.forget(note)

        return Task(
            run,
            (
                Write("oauth_sessions", state, verifier, born=True),
                *(Write("oauth_sessions", key, None) for key in (ended,) if key is not None),
                *(Write("notifications", note, None) for note in shown),
            ),
        )
