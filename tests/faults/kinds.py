"""The kinds of faults: each is a function that breaks something, and ends when it is no longer broken."""

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg

from tests.daemon import Daemon
from tests.faults import disk, ground, party
from tests.faults.clock import VARIABLE as CLOCK
from tests.faults.lives import RunError
from tests.faults.stage import MILESTONES, Stage
from tests.faults.writers import Note, Sale

Chance = random.Random
BEFORE: Final = ("start", "backfill", "follow")
TABLES: Final = ("admins", "events", "requests", "spotify_tokens", "tickets")
HOUR: Final = 3600
LOST: Final = ("The connection failed", "the database system is", "server closed the connection", "does not answer")
"""What a daemon may end with that starts while a server is away. Once it has been up, it waits."""
LEASE: Final = "Another daemon is running this migration"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What breaks."""

    name: str
    act: Callable[[Stage, Chance], None]
    milestones: tuple[str, ...] = MILESTONES
    """From which of them on it may come."""
    exits: tuple[str, ...] = ()
    """What the daemon may say when it ends by itself."""
    codes: tuple[int, ...] = ()
    """What it may exit with when it does not end by itself."""
    proxied: bool = False
    apart: bool | None = None
    """Whether it needs two databases; None: as it comes."""
    first: bool = False
    """Whether it must be over before the cutover."""
    moves: bool = False
    """Whether it needs a cutover."""
    program: str = "replicator"
    past_the_log: bool = False
    """Whether rows change past the log."""
    partitioned: bool = False
    """Whether the old table of tickets must be partitioned; such tables are not renamed."""
    plain: bool = False
    """Whether it must not be."""


# ---- the daemon


def kill(stage: Stage, _chance: Chance) -> None:
    stage.keeper.send(lambda daemon: daemon.process.kill())


def term(stage: Stage, _chance: Chance) -> None:
    stage.keeper.send(lambda daemon: daemon.process.terminate())


def second(stage: Stage, _chance: Chance) -> None:
    """Exactly one stays; the other says why it does not."""
    lives = len(stage.keeper.lives)
    other = Daemon(stage.daemon_settings, stage.folder / "second.log", environment=stage.environment)
    other.start()

    def one_is_gone() -> bool:
        return other.process.poll() is not None or any(LEASE in life.log for life in stage.keeper.lives[lives - 1 :])

    try:
        stage.until("one of two daemons to give way", one_is_gone)
        code = other.process.poll()
        if code is None:
            other.process.terminate()
            if other.process.wait(30) != 0 and not _explained(stage, other.log):
                raise RunError(f"the daemon that stayed ended badly: {other.log[-500:]}")
        elif LEASE not in other.log and not _explained(stage, other.log):
            raise RunError(f"the second daemon ended with {code}: {other.log[-500:]}")
    finally:
        other.end()


def _explained(stage: Stage, log: str) -> bool:
    """Whether another fault of the run, such as row security, may have kept it from working."""
    return any(text in log for text in stage.explained)


def jump(stage: Stage, chance: Chance) -> None:
    """The wall clock goes hours back and forth."""
    for _ in range(4):
        (stage.folder / "clock").write_text(str(chance.uniform(-30 * HOUR, 30 * HOUR)))
        time.sleep(chance.uniform(0.2, 0.6))


# ---- the server


def crash(stage: Stage, chance: Chance) -> None:
    cluster = stage.old.server.cluster
    assert cluster is not None
    stage.crashed = True
    cluster.stop("immediate")
    time.sleep(chance.uniform(0, 1))
    cluster.start()


def terminate(stage: Stage, chance: Chance) -> None:
    """A few of the daemon's sessions, again and again."""
    sessions = "SELECT pid FROM pg_stat_activity WHERE datname = ANY(%s) AND application_name LIKE 'replicator %%'"
    with psycopg.connect(stage.old.server.admin_dsn, autocommit=True) as admin:
        for _ in range(3):
            found = [pid for (pid,) in admin.execute(sessions, [[stage.old.name, stage.new.name]])]
            for pid in chance.sample(found, min(len(found), chance.randint(1, 3))):
                admin.execute("SELECT pg_terminate_backend(%s)", [pid])
            time.sleep(chance.uniform(0.05, 0.5))


def lock(stage: Stage, chance: Chance) -> None:
    """Somebody holds a new table so that nobody can even read it."""
    table = "tickets" if stage.rolling else chance.choice(TABLES)
    deadline = time.monotonic() + chance.uniform(1, 2.5)
    with psycopg.connect(stage.new.dsn) as opened:
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                opened.execute("SET LOCAL lock_timeout = '2s'")
                schema = "public" if stage.renamed else "party"
                opened.execute(f"LOCK TABLE {schema}.{table} IN ACCESS EXCLUSIVE MODE".encode())
                time.sleep(max(0.0, deadline - time.monotonic()))
            opened.rollback()
            time.sleep(0.02)


# ---- the network


def cut(stage: Stage, chance: Chance) -> None:
    assert stage.proxy is not None
    for _ in range(3):
        stage.proxy.cut()
        time.sleep(chance.uniform(0, 0.5))


def stall(stage: Stage, chance: Chance) -> None:
    assert stage.proxy is not None
    stage.proxy.stall()
    time.sleep(chance.uniform(0.5, 3))
    stage.proxy.flow()


def delay(stage: Stage, chance: Chance) -> None:
    assert stage.proxy is not None
    stage.proxy.delay = chance.uniform(0.01, 0.08)
    time.sleep(2)
    stage.proxy.delay = 0


def dribble(stage: Stage, chance: Chance) -> None:
    assert stage.proxy is not None
    stage.proxy.dribble = chance.randint(1, 50)
    time.sleep(1.5)
    stage.proxy.dribble = 0


def lose_reply(stage: Stage, _chance: Chance) -> None:
    """The cutover is committed, and nobody tells the daemon."""
    proxy = stage.proxy
    assert proxy is not None
    proxy.lose_replies = 1
    stage.until("the reply to the cutover's commit to be lost", lambda: proxy.replies_lost)


# ---- rows


def sour_row(stage: Stage, _chance: Chance) -> None:
    """The transform refuses a row, until the row is mended."""
    key = _quarantined(stage)
    stage.hand.do(Note(key, "sweet"))
    stage.until("the row to leave the quarantine", lambda: not _in_quarantine(stage))


def sour_transform(stage: Stage, _chance: Chance) -> None:
    """The transform refuses a row, until the transform is mended and all is repaired."""
    _quarantined(stage)
    stage.environment[party.MENDED] = "1"
    term(stage, _chance)
    stage.command("verify", {"repair": True}, lambda: not _in_quarantine(stage))


def _quarantined(stage: Stage) -> str:
    """Write what the transform refuses; gives its key, once it is in quarantine."""
    [entry] = stage.hand.do(Sale([f"{party.SOUR} row"]))
    stage.until("the row to go into quarantine", lambda: _in_quarantine(stage))
    return entry.key


def _in_quarantine(stage: Stage) -> int:
    return int(stage.ask(stage.new.dsn, "SELECT count(*) FROM _replicator.quarantine") or 0)


GROUND: Final = (
    Kind(name="table unlogged", act=ground.unlog, past_the_log=True, plain=True, exits=("Unlogged:",)),
    Kind(name="table inherited from", act=ground.inherit, past_the_log=True, plain=True,
         exits=("Other tables inherit from",)),
    Kind(name="row security", act=ground.hide_rows, exits=("Row level security",)),
    Kind(name="environment changed", act=ground.change_environment, codes=(-9,)),
    Kind(name="subscription", act=ground.subscribe, exits=("Subscriptions write to",)),
    Kind(name="partitions come and go", act=ground.attach, partitioned=True, past_the_log=True),
    Kind(name="objects planted", act=ground.plant),
)  # fmt: skip
"""What changes the ground. The daemon may end by the first ones, with the check's words: at its start, always."""

KINDS: Final = (
    Kind(name="daemon killed", act=kill, codes=(-9,)),
    Kind(name="daemon told to stop", act=term, codes=(0,)),
    Kind(name="two daemons", act=second, exits=(LEASE,)),
    Kind(name="wall clock jumps", act=jump, program="tests.faults.clock"),
    Kind(name="server crashes", act=crash, exits=LOST),
    Kind(name="sessions terminated", act=terminate, exits=LOST),
    Kind(name="new table locked", act=lock),
    Kind(name="connections cut", act=cut, proxied=True, exits=LOST),
    Kind(name="network stalls", act=stall, proxied=True, exits=LOST),
    Kind(name="network slow", act=delay, proxied=True),
    Kind(name="network dribbles", act=dribble, proxied=True),
    Kind(name="reply to the cutover lost", act=lose_reply, milestones=("follow",), proxied=True, moves=True),
    Kind(name="row refused, row mended", act=sour_row, milestones=BEFORE, first=True),
    Kind(name="row refused, transform mended", act=sour_transform, milestones=BEFORE, first=True, codes=(0,)),
    Kind(name="target disk full", act=disk.fill, milestones=("backfill", "follow"), apart=True, first=True,
         exits=("The server's disk is full",)),
    *GROUND,
)  # fmt: skip

__all__ = ["CLOCK", "GROUND", "KINDS", "Kind"]
