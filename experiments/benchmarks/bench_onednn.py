"""What do oneDNN's convolutions bring to a training step? ResNet-18 with them and without, in turns.

    python experiments/benchmarks/bench_onednn.py

TensorFlow (2.15 and 2.21) leaves them off where the processor has AVX2 but no AVX-512; `tce_tf` puts
them on on every x86 (`TF_ENABLE_ONEDNN_OPTS=0` before a command takes them off). The setting holds for
a process, so each timing is the median of the steps of a process of its own.
"""

import harness  # isort: skip

import os
import statistics
import time

from bench_determinism import make_step

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def step_seconds(sizes: dict, steps: int) -> float:
    """The median step of this process, after two that trace and compile."""
    step = make_step("off", **sizes)
    seconds = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def main() -> None:
    """Prints both medians and their ratio."""
    quick = harness.parser(__doc__).parse_args().quick
    sizes = dict(batch=4, image_size=32, num_videos=64, num_negatives=16)
    if not quick:
        sizes = dict(batch=25, image_size=64, num_videos=9537, num_negatives=8192)
    seconds = {"1": [], "0": []}
    for _ in range(1 if quick else 3):
        for setting, found in seconds.items():
            os.environ[VARIABLE] = setting  # the new process reads it
            found.append(harness.in_process(step_seconds, sizes, 2 if quick else 8).value)
    harness.print_table(
        (VARIABLE, "median ms", "spread %"),
        [(name, 1e3 * statistics.median(found), 100 * harness.spread(found))
         for name, found in seconds.items()],
    )  # fmt: skip
    harness.finish({"onednn_step": harness.ratio(seconds["0"], seconds["1"])}, {"onednn_step": 1.0})


if __name__ == "__main__":
    main()
