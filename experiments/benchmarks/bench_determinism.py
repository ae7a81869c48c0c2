"""What does --deterministic cost? The whole ResNet-18 step with it and without, in turns.

python experiments/benchmarks/bench_determinism.py
"""

import harness  # isort: skip

import numpy as np
import tensorflow as tf

from tce_tf.modeling import tce_model
from tce_tf.training import determinism, optimizers, schedules


def make_step(setting: str, *, batch: int, image_size: int, num_videos: int, num_negatives: int):
    """One training step on fixed random views, as a function to be timed."""
    model = tce_model.TCEModel(
        "resnet18",
        num_videos=num_videos,
        objective=tce_model.Objective(num_negatives=num_negatives, total_steps=1000),
    )
    model.initialize(image_size)
    optimizer = optimizers.SGD(schedules.Schedule(1e-4), coupled_weight_decay=1e-4)
    optimizer.build(model.optimized_weights)
    model.compile(optimizer=optimizer)
    rng = np.random.default_rng(0)
    views = {
        name: tf.constant(rng.standard_normal((batch, image_size, image_size, 3)), tf.float32)
        for name in ("anchor", "positive", "rotated")
    }
    views["rotation_label"] = tf.constant(rng.integers(0, 4, batch))
    views["video_index"] = tf.constant(rng.choice(num_videos, batch, replace=False))
    train_step = tf.function(model.train_on_views)

    def step():
        with determinism.deterministic(setting):
            return float(train_step(views)["loss"])

    return step


def main() -> None:
    """Prints both timings and their ratio."""
    quick = harness.parser(__doc__).parse_args().quick
    sizes = dict(batch=4, image_size=32, num_videos=64, num_negatives=16)
    if not quick:
        sizes = dict(batch=25, image_size=224, num_videos=9537, num_negatives=8192)
    steps = {name: make_step(name, **sizes) for name in ("on", "off")}
    timings = harness.interleave(steps, rounds=3 if quick else 9, warmup=2)
    harness.print_timings(timings, "ResNet-18 step, --deterministic")
    on, off = timings["on"], timings["off"]
    harness.finish(
        ratios={
            "deterministic_step_time": harness.ratio(on, off),
            "deterministic_cpu_time": harness.ratio(on.cpu, off.cpu),
        },
        goals={"deterministic_step_time": 1.05},
        at_most=["deterministic_step_time"],
    )


if __name__ == "__main__":
    main()
