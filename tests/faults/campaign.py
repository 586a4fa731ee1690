"""Many runs, two at a time: ``make faults RUNS=200 SEED=1``. Prints a table; exits with 1 if one was not survived."""

import argparse
import multiprocessing
import signal
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from itertools import count, islice
from typing import Final

from replicator.demo.embedded import Cluster
from replicator.runtime.failpoints import Failpoint
from tests.faults.plans import plan_of
from tests.faults.play import Result, play
from tests.fix_postgres import Server
from tests.servers import Choice, choices_of, find_sources

SERVERS: Final = ("pg18-pgoutput", "pg15-wal2json")
"""In turn."""
AT_ONCE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first; each next one's is one more")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="how many at a time (default: %(default)s)")
    parser.add_argument("--renames", action="store_true", help="only seeds whose cutover renames the tables")
    given = parser.parse_args(arguments)
    seeds = (seed for seed in count(given.seed) if plan_of(seed).renames or not given.renames)
    results = run_all([*islice(seeds, given.runs)], given.at_once)
    say(table(results))
    say(at_work(results))
    say(hits(results))
    failed = [each for each in results if not each.survived]
    for each in failed:
        say(
            f"Not survived: seed {each.plan.seed}; again: make faults RUNS=1 SEED={each.plan.seed}; logs: {each.folder}"
        )
    return 1 if failed else 0


def run_all(seeds: Sequence[int], at_once: int) -> list[Result]:
    """Run the seeds, telling of each as it ends; Ctrl-C leaves out those that are left."""
    results: list[Result] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=context, initializer=leave_interrupts_to_the_parent) as pool:
        futures = [pool.submit(run_one, seed) for seed in seeds]
        try:
            for future in as_completed(futures):
                results.append(future.result())
                tell(len(results), results[-1])
        except KeyboardInterrupt:
            say("Stopping: the runs that are under way are played to their end.")
            pool.shutdown(cancel_futures=True)
            results = [future.result() for future in futures if future.done() and not future.cancelled()]
    return sorted(results, key=lambda each: each.plan.seed)


def leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches the whole process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def tell(number: int, result: Result) -> None:
    """What came of one run, and how to repeat it."""
    word = "survived" if result.survived else "FAILED"
    say(f"{number:4} {word} in {result.seconds:.1f} s on {result.server}, seed {result.plan}")
    for each in result.wrong:
        say(f"       {each}")


def run_one(seed: int) -> Result:
    """One run, on this process's own server."""
    names: list[str] = [name for name in SERVERS if name in found()] or [*found()]
    return play(plan_of(seed), server(names[seed // 2 % len(names)]))


@cache
def found() -> dict[str, Choice]:
    """The servers that this machine can run."""
    return {name: choice for name, choice in choices_of(find_sources()).items() if choice.source.binaries}


@cache
def server(name: str) -> Server:
    """A server with fsync on, for as long as this process lives: what is acknowledged must outlive a crash."""
    choice = found()[name]
    cluster = Cluster(choice.source.binaries, fsync=True)
    cluster.start()
    return Server(choice.source.version, choice.plugin, cluster.dsn(), cluster)


def table(results: Sequence[Result]) -> str:
    """A row for each kind of fault."""
    seconds: dict[str, list[float]] = defaultdict(list)
    runs: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    for each in results:
        for name, lasted in each.recoveries:
            seconds[name].append(lasted)
        for name in {name for name, _ in each.recoveries} | {kind.name for kind, _, _ in each.plan.faults}:
            runs[name] += 1
            survived[name] += each.survived
    rows = ["| fault | runs | survived | seconds to recover: median | most |", "|---|---:|---:|---:|---:|"]
    for name in sorted(runs):
        took = seconds[name] or [float("nan")]
        rows.append(f"| {name} | {runs[name]} | {survived[name]} | {statistics.median(took):.1f} | {max(took):.1f} |")
    total = sum(each.survived for each in results)
    rows.append(f"| **all** | {len(results)} | {total} | | |")
    return "\n".join(rows)


PHASES: Final = ("new", "backfill", "build", "follow", "cutover", "rolling", "soak", "rollback")


def at_work(results: Sequence[Result]) -> str:
    """In how many runs each kind of fault was at work in which phase."""
    counted = Counter(each for result in results for each in set(result.phases))
    rows = [f"| fault, at work in | {' | '.join(PHASES)} |", f"|---|{'---:|' * len(PHASES)}"]
    rows += [
        f"| {name} | {' | '.join(str(counted[name, phase]) for phase in PHASES)} |"
        for name in sorted({name for name, _ in counted})
    ]
    return "\n".join(rows)


def hits(results: Sequence[Result]) -> str:
    """How often each failpoint did its work."""
    counted = Counter(name for each in results for name in each.hits)
    return "\n".join(
        ["| failpoint | hits |", "|---|---:|", *(f"| `{point}` | {counted[point]} |" for point in Failpoint)]
    )


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
