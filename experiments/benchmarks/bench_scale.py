"""What do more videos and more negatives cost, in time and memory?

    python experiments/benchmarks/bench_scale.py

The NCE stage (`TCEModel.contrast`, its gradient, the bank's update; batch 100, D 128) as N and as K
grow, with no negative mined (`random`) and all (`hard`). Each size has a process of its own,
so that its largest resident memory is its own. Last, whole training steps of a ResNet-18 on 32 px
images at N = 10^6, which must fit into 8 GB: the bank is 512 MB, one matrix of scores 400 MB.
"""

import harness  # isort: skip

import bench_nce

BATCH, MEMORY_GOAL_GB = 100, 8.0


def stage(num_videos: int, num_negatives: int, regime: str, rounds: int, batch: int) -> float:
    """Median seconds of a stage; runs in a process of its own."""
    stages, _ = bench_nce.contenders(num_videos, regime, num_negatives, batch, only_ours=True)
    return harness.interleave(stages, rounds=rounds)["ours"].median


def whole_step(num_videos: int, num_negatives: int, regime: str, rounds: int, batch: int) -> float:
    """Median seconds of a training step on 32 px images; runs in a process of its own."""
    import numpy as np
    import tensorflow as tf

    from tce_tf.modeling import tce_model
    from tce_tf.training import optimizers, schedules

    threshold = bench_nce.thresholds(num_videos, num_negatives)[regime]
    objective = tce_model.Objective(
        num_negatives=num_negatives, mining_low=threshold, mining_rate=0.0
    )
    model = tce_model.TCEModel(num_videos=num_videos, objective=objective)
    model.initialize(32)
    optimizer = optimizers.SGD(schedules.Schedule(0.03), coupled_weight_decay=1e-4)
    optimizer.build(model.optimized_weights)
    model.compile(optimizer=optimizer)
    rng = np.random.default_rng(0)
    views = {
        name: tf.constant(rng.standard_normal((batch, 32, 32, 3)), tf.float32)
        for name in ("anchor", "positive", "rotated")
    }
    views["rotation_label"] = tf.constant(rng.integers(0, 4, batch), tf.int32)
    views["video_index"] = tf.constant(rng.permutation(num_videos)[:batch])
    step = tf.function(model.train_on_views)

    def run():
        return {name: value.numpy() for name, value in step(views).items()}

    return harness.interleave({"step": run}, rounds=rounds)["step"].median


def main() -> None:
    """Prints a row a size and the growth over each tenfold of N and K."""
    arguments = harness.parser(__doc__).parse_args()
    quick = arguments.quick
    rounds, batch = (2, 8) if quick else (5, BATCH)
    sizes = (300, 3000) if quick else (10_000, 100_000, 1_000_000)
    fewest, most = (16, 64) if quick else (1024, 8192)
    between = () if quick else (most // 4,)
    plan = [(n, most) for n in sizes] + [(sizes[1], k) for k in (fewest, *between)]
    regimes = ("hard",) if quick else ("random", "hard")
    rows, seconds, gigabytes = [], {}, {}
    for function, combinations in ((stage, plan), (whole_step, [(sizes[-1], most)])):
        for num_videos, num_negatives in combinations:
            for regime in regimes:
                usage = harness.in_process(
                    function, num_videos, num_negatives, regime, rounds, batch
                )
                key = f"{function.__name__}_{regime}_n{num_videos}_k{num_negatives}"
                seconds[key], gigabytes[key] = usage.value, usage.peak_bytes / 1e9
                rows.append(
                    (function.__name__, regime, num_videos, num_negatives,
                     1e3 * usage.value, gigabytes[key])
                )  # fmt: skip
    harness.print_table(("", "regime", "N", "K", "median ms", "peak GB"), rows)
    ratios = {"peak_gb_at_largest_n": max(gigabytes.values())}
    for regime in regimes:
        for few, many in zip(sizes, sizes[1:], strict=False):
            ratios[f"{regime}_n{many}_over_n{few}"] = (
                seconds[f"stage_{regime}_n{many}_k{most}"]
                / seconds[f"stage_{regime}_n{few}_k{most}"]
            )
        ratios[f"{regime}_k{most}_over_k{fewest}"] = (
            seconds[f"stage_{regime}_n{sizes[1]}_k{most}"]
            / seconds[f"stage_{regime}_n{sizes[1]}_k{fewest}"]
        )
    harness.finish(
        ratios,
        {"peak_gb_at_largest_n": MEMORY_GOAL_GB},
        at_most=("peak_gb_at_largest_n",),
        seconds={name: round(value, 5) for name, value in seconds.items()},
        gigabytes={name: round(value, 3) for name, value in gigabytes.items()},
    )


if __name__ == "__main__":
    main()
