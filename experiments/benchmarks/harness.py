"""How are several ways to do one thing compared fairly? In turns, by medians, with one JSON line.

    import harness  # first: it makes the project importable from anywhere

    arguments = harness.parser(__doc__).parse_args()
    timings = harness.interleave({"ours": f, "published": g}, rounds=3 if arguments.quick else 9)
    harness.print_timings(timings)
    harness.finish(
        ratios={"nce_9537": harness.ratio(timings["published"], timings["ours"])},
        goals={"nce_9537": 20.0},
    )

A benchmark prints tables and, as its last line, a JSON object with `versions`, `ratios`, `goals` and
`met`. Every one takes `--quick`: tiny sizes that show that it runs, whose figures mean nothing. Only
ratios of one run are to be compared: absolute times depend on the machine and its other load.
"""

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import tce_tf  # noqa: E402, F401 -- before TensorFlow: its settings are those of the commands

_PACKAGES = ("tensorflow", "keras", "numpy")


@dataclasses.dataclass(frozen=True)
class Timing:
    """What the rounds of one contender took.

    Attributes:
      wall: seconds of each round.
      cpu: CPU-seconds of each round, over all threads of this process.
    """

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        """Median wall seconds."""
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        """Median CPU-seconds."""
        return statistics.median(self.cpu)

    @property
    def spread(self) -> float:
        """Interquartile range of the wall seconds as a fraction of their median."""
        return spread(self.wall)


def spread(values: Sequence[float]) -> float:
    """Interquartile range as a fraction of the median; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / statistics.median(values)


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser with `--quick`; the help text is the benchmark's docstring."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing"
    )
    return made


def interleave(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, Timing]:
    """Times callables in turns, A B C A B C ..., so that a drift of the machine hits all alike.

    Args:
      contenders: each does its whole work before it returns (fetch a result of TensorFlow's with
        `.numpy()`); one call is one timing, so a call should take 10 ms or more.
      rounds: timings of each.
      warmup: calls of each before them, not timed: tracing, compiling, caches.
    """
    for _ in range(warmup):
        for call in contenders.values():
            call()
    timings = {name: Timing([], []) for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            gc.collect()  # before, so that no contender pays for another's garbage
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            timings[name].wall.append(time.perf_counter() - wall)
            timings[name].cpu.append(time.process_time() - cpu)
    return timings


def ratio(slow: Timing | Sequence[float], fast: Timing | Sequence[float]) -> float:
    """How many times faster `fast` is: the median over rounds of the ratio within a round."""
    slow, fast = (t.wall if isinstance(t, Timing) else t for t in (slow, fast))
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a function gave and took in a process of its own.

    Attributes:
      value: what it returned.
      wall: seconds, without the start of the process.
      cpu: CPU-seconds of its process and of the child processes that ended in it.
      peak_bytes: largest resident memory of its process.
    """

    value: object
    wall: float
    cpu: float
    peak_bytes: int


def in_process(function: Callable, *args) -> Usage:
    """Calls an importable function in a fresh process, for memory, for CPU, for other settings.

    Raises:
      RuntimeError: the process died; what it raised itself is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_usage, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}{args} ended without a result") from None
    finally:
        process.join()


def _report_usage(sender, function, args) -> None:
    before, started = _cpu_seconds(), time.perf_counter()
    value = function(*args)
    wall, cpu = time.perf_counter() - started, _cpu_seconds() - before
    sender.send(Usage(value, wall, cpu, _peak_bytes()))


def _peak_bytes() -> int:
    # Not ru_maxrss: that of a process begins with the memory of the one that started it.
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _cpu_seconds() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Prints rows under headers as a Markdown table; numbers to four digits."""
    cells = [[_shown(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    cells.insert(1, ["-" * width for width in widths])
    print(f"\n{title}" if title else "")
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("| " + " | ".join(padded) + " |", flush=True)


def _shown(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"


def print_timings(timings: Mapping[str, Timing], title: str = "") -> None:
    """Prints median, spread and CPU time of each contender."""
    print_table(
        ("", "median ms", "spread %", "CPU ms"),
        [
            (name, 1e3 * timing.median, 100 * timing.spread, 1e3 * timing.median_cpu)
            for name, timing in timings.items()
        ],
        title,
    )


def versions(packages: Collection[str] = ()) -> dict[str, str]:
    """Python, processor, cores and the versions of packages; those not installed are left out."""
    found = {"python": platform.python_version(), "cpu": _processor()}
    found["cores"] = str(len(os.sched_getaffinity(0)))
    for package in (*_PACKAGES, *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def finish(
    ratios: Mapping[str, float],
    goals: Mapping[str, float],
    *,
    at_most: Collection[str] = (),
    packages: Collection[str] = (),
    **more,
) -> None:
    """Prints goals beside what was measured, then the JSON line that ends every benchmark.

    Args:
      ratios: every figure worth comparing, by name.
      goals: what some of them should reach.
      at_most: names of those that should stay below their goal instead.
      packages: others than TensorFlow, Keras and NumPy whose versions matter.
      more: further entries of the JSON object.
    """
    met = {
        name: bool(ratios[name] <= goal if name in at_most else ratios[name] >= goal)
        for name, goal in goals.items()
    }
    rows = [
        (name, ratios[name], f"{'at most' if name in at_most else 'at least'} {goal:g}",
         "met" if met[name] else "not met")
        for name, goal in goals.items()
    ]  # fmt: skip
    found = versions(packages)
    print_table(("goal", "measured", "wanted", ""), rows)
    print("\n" + ", ".join(f"{name} {version}" for name, version in found.items()))
    document = {
        "versions": found,
        "ratios": {name: round(float(value), 4) for name, value in ratios.items()},
        "goals": dict(goals),
        "met": met,
    }
    print(json.dumps(document | more), flush=True)
