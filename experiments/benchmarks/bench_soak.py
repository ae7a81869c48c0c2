"""Does a long run stay as it began? Memory, open files and pace of train and of embed.

    python experiments/benchmarks/bench_soak.py --picture=soak.png

`train`, with checkpoints and the monitor, and `embed` run as commands on clips made here. Five times a
second their memory and open files are read from /proc; the pace of train is that of its own log, that
of embed comes from the times of its shards. Each is compared between the second and the last quarter
of the run: the first warms up.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import harness  # isort: skip -- makes tce_tf importable
import numpy as np

_INTERVAL = 0.2  # seconds between two looks at a process


@dataclasses.dataclass
class Curves:
    """What was seen of one run, each a list of (seconds since its start, value)."""

    memory: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # MB resident
    files: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    pace: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # ms a step or frame


def run_command(command: str, *flags: str) -> None:
    """Runs a command of the project; raises CalledProcessError where it fails."""
    line = [sys.executable, "-m", f"tce_tf.{command}", *flags]
    subprocess.run(line, cwd=harness.ROOT, check=True, stdout=subprocess.DEVNULL)


def watch(command: str, *flags: str) -> tuple[Curves, float]:
    """Runs a command to its end; returns the curves of its process and when it began."""
    curves, began = Curves(), time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", f"tce_tf.{command}", *flags], cwd=harness.ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    ended = threading.Event()

    def look():
        folder = pathlib.Path("/proc") / str(process.pid)
        while not ended.wait(_INTERVAL):
            try:
                pages = int((folder / "statm").read_text().split()[1])
                files = len(os.listdir(folder / "fd"))
            except (FileNotFoundError, ProcessLookupError):
                return  # it has just ended
            seconds = time.time() - began
            curves.memory.append((seconds, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
            curves.files.append((seconds, files))

    thread = threading.Thread(target=look)
    thread.start()
    _, stderr = process.communicate()
    ended.set()
    thread.join()
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{stderr}")
    return curves, began


def soak_train(work: str, steps: int, data: dict[str, str]) -> Curves:
    """Training with everything that happens now and then: checkpoints, monitor, pictures."""
    curves, _ = watch(
        "train", f"--data={data['train']}", f"--workdir={work}/run", f"--steps={steps}",
        f"--epochs={steps}", "--image_size=32", "--batch_size=8", "--num_negatives=16",
        "--log_every=10", f"--checkpoint_every={max(steps // 20, 1)}", "--keep=2",
        f"--eval_train={data['train']}", f"--eval_test={data['test']}",
        f"--eval_every={max(steps // 4, 1)}", "--learning_rate=0.001",
    )  # fmt: skip
    lines = [json.loads(line) for line in open(f"{work}/run/metrics.jsonl", encoding="utf-8")]
    rates = [line["frames_per_second"] for line in lines]
    images = 3 * 8  # anchor, positive and rotated of each video
    # Steps are spread evenly over the curve: what lies between two log lines is the same work.
    ends = np.linspace(curves.memory[0][0], curves.memory[-1][0], len(rates))
    curves.pace = [
        (float(end), 1000 * images / rate) for end, rate in zip(ends, rates, strict=True)
    ]
    return curves


def soak_embed(work: str, clips: str, rows_per_shard: int) -> Curves:
    """Embedding of a folder of videos into many shards."""
    curves, began = watch(
        "embed", f"--input={clips}", f"--output={work}/all.tfrecord", "--encoder=none",
        "--image_size=32", f"--rows_per_shard={rows_per_shard}", "--batch_size=8",
    )  # fmt: skip
    shards = sorted(pathlib.Path(work).glob("all-*.tfrecord"))
    times = [path.stat().st_mtime - began for path in shards]
    curves.pace = [
        (stop, 1000 * (stop - start) / rows_per_shard)
        for start, stop in zip(times, times[1:], strict=False)
    ]
    return curves


def drift(values: list[tuple[float, float]]) -> float:
    """Median of the last quarter over that of the second."""
    column = np.array(values)[:, 1]
    quarters = np.array_split(column, 4)
    return float(np.median(quarters[3]) / np.median(quarters[1]))


def draw(path: str, runs: dict[str, Curves]) -> None:
    """Writes the curves as a PNG, a row a run."""
    from matplotlib import figure

    drawing = figure.Figure(figsize=(11, 2.6 * len(runs)), dpi=80, layout="constrained")
    titles = {"memory": "resident, MB", "files": "open files", "pace": "ms a step or frame"}
    grid = drawing.subplots(len(runs), len(titles), squeeze=False)
    for row, (name, curves) in zip(grid, runs.items(), strict=True):
        for axes, (field, title) in zip(row, titles.items(), strict=True):
            axes.plot(*np.array(getattr(curves, field)).T, linewidth=0.9)
            axes.set_ylim(bottom=0)
            axes.set_title(f"{name}: {title}", fontsize=9)
            axes.set_xlabel("seconds", fontsize=8)
    drawing.savefig(path)


def main() -> None:
    """Runs both and prints how far each figure drifted."""
    parser = harness.parser(__doc__)
    parser.add_argument("--picture", default="", help="PNG of the curves to write")
    parser.add_argument("--steps", type=int, default=2000, help="steps of training")
    parser.add_argument("--videos", type=int, default=500, help="videos to embed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.videos = 40, 48
    with tempfile.TemporaryDirectory(prefix="bench_soak-") as work:
        clips = f"{work}/clips"
        frames = 12
        run_command(
            "make_synthetic", f"--output={clips}", f"--num_videos={arguments.videos}",
            f"--num_frames={frames}",
        )  # fmt: skip
        data = {}
        for subset in ("train", "test"):
            data[subset] = f"{work}/{subset}"
            run_command(
                "make_tfrecords", f"--input={clips}", f"--output={data[subset]}",
                "--layout=ucf101", f"--split_dir={clips}/splits", f"--subset={subset}",
                "--short_side=40",
            )  # fmt: skip
        runs = {
            "train": soak_train(work, arguments.steps, data),
            "embed": soak_embed(work, clips, rows_per_shard=frames * arguments.videos // 50),
        }
    figures = {
        f"{name}, {field}": drift(getattr(curves, field))
        for name, curves in runs.items()
        for field in ("memory", "files", "pace")
    }
    allowed = {"memory": 1.03, "files": 1.0, "pace": 1.1}
    goals = {name: allowed[name.partition(", ")[2]] for name in figures}
    rows = [
        (name, f"{curves.memory[-1][0]:.0f} s", f"{max(v for _, v in curves.memory):.0f} MB",
         f"{max(v for _, v in curves.files):.0f}", f"{np.median([v for _, v in curves.pace]):.1f} ms")
        for name, curves in runs.items()
    ]  # fmt: skip
    harness.print_table(("run", "took", "most memory", "most files", "step or frame"), rows, "soak")
    if arguments.picture:
        draw(arguments.picture, runs)
    harness.finish(figures, goals, at_most=list(goals), settings=vars(arguments))


if __name__ == "__main__":
    main()
