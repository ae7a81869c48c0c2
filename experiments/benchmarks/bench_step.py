"""What share of the machine's matrix-product peak does a whole training step reach?

    python experiments/benchmarks/bench_step.py

A ResNet-18 step at 224 px as `train` runs it: real shards read and decoded (made here from synthetic
clips), views, three passes, loss, gradients, SGD, bank. The peak is a float32 product of two
4096 x 4096 matrices, timed in turns with the steps. Operations of a step, counted as the model's
literature does (2 for a multiplication and addition, additions alone left out):

    forward  = 2 x multiplications of every convolution and dense layer
    backward = 2 x forward
    step     = samples x 3 passes x (forward + backward) + NCE: 2 products of [B, D] x [D, N]

Input wait is the time the step spends in asking for its next batch.
"""

import harness  # isort: skip

import os
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf

from tce_tf import config
from tce_tf.data import conversion, plan, shard_reader, synthetic
from tce_tf.modeling import tce_model
from tce_tf.training import setup

PASSES = 3
GOALS = {"share_of_peak": 0.75, "input_wait": 0.02}


def forward_multiplications(model: tce_model.TCEModel, image_size: int) -> int:
    """Multiplications of one image's way through backbone and projection, read off their graph.

    The rotation head's, below a thousandth of a per cent, are left out.
    """
    image = tf.TensorSpec([1, image_size, image_size, 3])
    graph = tf.function(lambda images: model(images)).get_concrete_function(image).graph
    total = 0
    for operation in graph.get_operations():
        if operation.type == "Conv2D":  # kernel: height, width, channels in, channels out
            kernel = operation.inputs[1].shape
            total += int(np.prod(operation.outputs[0].shape[1:3])) * kernel.num_elements()
        elif operation.type == "MatMul":
            total += operation.inputs[1].shape.num_elements()
    return total


def make_shards(folder: str, num_videos: int, image_size: int) -> str:
    """Shards of synthetic clips, as `make_synthetic` and `make_tfrecords` make them."""
    clips, shards = os.path.join(folder, "clips"), os.path.join(folder, "shards")
    synthetic.make_clips(clips, num_videos=num_videos, num_frames=10)
    options = plan.Options(
        input=clips,
        output=shards,
        layout="ucf101",
        split_dir=os.path.join(clips, "splits"),
        short_side=image_size * 8 // 7,
    )
    conversion.make_tfrecords(options, num_workers=2)
    return shards


class Training:
    """Steps of a run, the time each waited for its batch kept in `waits`."""

    def __init__(self, shards: str, image_size: int, batch_size: int, steps: int):
        reader = shard_reader.ShardReader([shards])
        self.config = config.TrainConfig(
            image_size=image_size, batch_size=batch_size, num_negatives=len(reader.names) - 1
        )
        self.model = setup.build_model(self.config, reader, total_steps=steps)
        inputs = setup.make_input(self.config, reader)
        setup.make_optimizer(
            self.config, setup.make_schedule(self.config, inputs.steps_per_epoch), self.model
        )
        self._batches = iter(inputs.dataset(start_step=0, num_steps=steps))
        self._step = tf.function(self.model.train_step)
        self.waits: list[float] = []

    def step(self) -> dict[str, float]:
        """One step from batch to logged scalars."""
        before = time.perf_counter()
        batch = next(self._batches)
        self.waits.append(time.perf_counter() - before)
        return {name: float(value) for name, value in self._step(batch).items()}

    def operations(self) -> float:
        """Floating-point operations of a step, by the formula above."""
        batch, bank = self.config.batch_size, self.model.bank
        forward = 2 * forward_multiplications(self.model, self.config.image_size)
        return batch * PASSES * 3 * forward + 2 * 2 * batch * bank.width * bank.num_rows


def main() -> None:
    """Times steps and products in turns."""
    arguments = harness.parser(__doc__).parse_args()
    quick = arguments.quick
    image_size, batch, side, rounds = (32, 8, 256, 2) if quick else (224, 100, 4096, 7)
    matrices = [tf.random.normal([side, side], seed=seed) for seed in (0, 1)]
    multiply = tf.function(lambda a, b: tf.matmul(a, b)[0, 0])
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(folder, 2 * batch if quick else 4 * batch, image_size)
        training = Training(shards, image_size, batch, steps=rounds + 1)
        timings = harness.interleave(
            {"product": lambda: multiply(*matrices).numpy(), "step": training.step}, rounds=rounds
        )
    harness.print_timings(timings, f"ResNet-18, {image_size} px, batch {batch}")
    step, product = timings["step"].wall, timings["product"].wall
    rates = {
        "product": statistics.median(2 * side**3 / seconds for seconds in product) / 1e9,
        "step": statistics.median(training.operations() / seconds for seconds in step) / 1e9,
    }
    harness.print_table(("", "GFLOP/s"), list(rates.items()))
    ratios = {
        "share_of_peak": rates["step"] / rates["product"],
        # The same of CPU-seconds: what the share would be if nothing else ran and no thread idled.
        "share_of_peak_by_cpu": training.operations() / timings["step"].median_cpu
        / (2 * side**3 / timings["product"].median_cpu),
        "input_wait": statistics.median(
            wait / seconds for wait, seconds in zip(training.waits[1:], step, strict=True)
        ),
    }  # fmt: skip
    harness.finish(ratios, GOALS, at_most=("input_wait",), gflops=rates)


if __name__ == "__main__":
    main()
