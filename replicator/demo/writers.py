"""The application's writers, as a program: ``python -m replicator.demo.writers --dsn ... --rate N``.

They make the old schema if it is not there, write to it at a set rate, and go over to the new one by themselves when
the replicator says so. They stop at SIGTERM or Ctrl-C; with ``--ledger``, when their standard input ends, too.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from replicator.demo.application import Connection, Ids, found
from replicator.demo.connecting import connect
from replicator.demo.home import find_home, reference
from replicator.demo.ledger import Ledger
from replicator.demo.seed import seed
from replicator.demo.tally import Tally
from replicator.demo.workload import Workload
from replicator.demo.writer import Writer, application
from replicator.errors import ReplicatorError
from replicator.runtime.log import configure, get_logger

log = get_logger("writers")

WORKERS = 4
ROWS = 10_000
REPORT_SECONDS = 0.25
LOG_SECONDS = 10.0
RETRY_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Write until told to stop; gives the exit code."""
    given = _parse(arguments)
    configure()
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    if given.ledger:
        threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    while True:
        try:
            _write(given, stop)
            return 0
        except psycopg.OperationalError as error:
            if given.ledger:  # whether the transaction that was under way was committed, nobody knows
                log.error("the connection is lost", error=str(error))  # noqa: TRY400  its text is enough
                return 1
            log.warning("no connection, trying again", error=str(error))
            if stop.wait(RETRY_SECONDS):
                return 0
        except ReplicatorError as error:
            log.error("cannot write", error=str(error))  # noqa: TRY400  its text is enough
            return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m replicator.demo.writers", description=__doc__)
    parser.add_argument("--dsn", required=True, help="connection string of the database")
    parser.add_argument("--rate", type=int, default=200, help="transactions a second (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=ROWS, help="requests to begin with (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=WORKERS, help="connections to write by (default: %(default)s)")
    parser.add_argument("--ledger", type=Path, help="where to leave, at the end, what was acknowledged")
    return parser.parse_args(arguments)


def _stop_at_end_of_input(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):  # sys.stdin itself would be locked while this process ends
        pass
    stop.set()


def _write(given: argparse.Namespace, stop: threading.Event) -> None:
    """One life of all the writers; raises what one of them raises."""

    def connection() -> Connection:
        return connect(given.dsn, "demo writer")

    home = find_home()
    ids, tally = Ids(reference(home)), Tally()
    with connection() as connected:
        seed(connected, home / "sql", given.rows)
        held = found(connected, application(connected, ids))
    writers = [
        Writer(
            connection,
            ids,
            Workload(held, worker=number, workers=given.workers),
            tally,
            rate=given.rate / given.workers,
            keeping=given.ledger is not None,
        )
        for number in range(given.workers)
    ]
    for writer in writers:
        writer.start()
    _report(given, writers, tally, stop)
    for writer in writers:
        writer.stop()
    for writer in writers:
        writer.join()
    for writer in writers:
        if writer.error is not None:
            raise writer.error
    _tell(given, tally)
    if given.ledger:
        ledger = Ledger()
        for writer in writers:
            ledger.merge(writer.ledger)
        ledger.save(given.ledger)


def _report(given: argparse.Namespace, writers: list[Writer], tally: Tally, stop: threading.Event) -> None:
    """Tell how it goes until all are to stop, or one of them has stopped."""
    told = time.monotonic()
    while all(writer.is_alive() for writer in writers) and not stop.wait(REPORT_SECONDS):
        if given.ledger or time.monotonic() - told > LOG_SECONDS:
            told = time.monotonic()
            _tell(given, tally)


def _tell(given: argparse.Namespace, tally: Tally) -> None:
    report = tally.report()
    if given.ledger:
        sys.stdout.write(f"{json.dumps(report)}\n")
        sys.stdout.flush()
    else:
        log.info("writing", **report)


if __name__ == "__main__":
    sys.exit(main())
