"""How long until a run's first step, and how much longer with AutoGraph? Both ways in turns.

    python experiments/benchmarks/bench_first_step.py

What a run does before it has made a step: read the shards, build, trace, compile, then the step and
its checkpoint. The project traces without AutoGraph, as nothing in it needs Python rewritten; the other
contender has it in every `tf.function`, as TensorFlow's default is. Each timing is of a process of its
own, from which the import of TensorFlow is left out. CPU-seconds are compared: they hold on a busy
machine, too.
"""

import harness  # isort: skip

import functools
import os
import statistics
import tempfile


def first_step(data: str, strategy: str, image_size: int, autograph: bool) -> float:
    """CPU-seconds of this process for a run of one step."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    if autograph:
        plain = tf.function

        @functools.wraps(plain)
        def function(func=None, **settings):
            return plain(func, **(settings | {"autograph": True}))

        tf.function = function
    from tce_tf import config
    from tce_tf.training import run

    with tempfile.TemporaryDirectory(prefix="bench_first_step-") as workdir:
        settings = config.TrainConfig(
            data=data, workdir=os.path.join(workdir, "run"), steps=1, strategy=strategy,
            image_size=image_size, batch_size=8, num_negatives=8,
        )  # fmt: skip
        before = os.times()
        run.train(settings)
        after = os.times()
    return after.user + after.system - before.user - before.system


def main() -> None:
    """Prints the medians and their ratios."""
    quick = harness.parser(__doc__).parse_args().quick
    ratios = {}
    with tempfile.TemporaryDirectory(prefix="bench_first_step-") as folder:
        data = _make_shards(folder)
        for strategy in ("one_device",) if quick else ("one_device", "mirrored"):
            seconds = {False: [], True: []}
            for _ in range(1 if quick else 3):
                for autograph, found in seconds.items():
                    measured = harness.in_process(
                        first_step, data, strategy, 32 if quick else 64, autograph
                    )
                    found.append(measured.value)
            harness.print_table(
                ("AutoGraph", "median CPU s", "spread %"),
                [("yes" if autograph else "no", statistics.median(found), 100 * harness.spread(found))
                 for autograph, found in seconds.items()], strategy,
            )  # fmt: skip
            ratios[f"first_step_{strategy}"] = harness.ratio(seconds[True], seconds[False])
    harness.finish(ratios, dict.fromkeys(ratios, 1.0))


def _make_shards(folder: str) -> str:
    from tce_tf.data import conversion, plan, synthetic

    clips, shards = os.path.join(folder, "clips"), os.path.join(folder, "shards")
    synthetic.make_clips(clips, num_videos=16, num_frames=8)
    conversion.make_tfrecords(
        plan.Options(input=clips, output=shards, short_side=80), num_workers=1
    )
    return shards


if __name__ == "__main__":
    main()
