"""How fast is the input of training, and what does a sample cost in CPU time?

    python experiments/benchmarks/bench_input.py

A sample is two frames decoded and three views made, 256 px stored, 224 px out, three images of float32
as tensors in the end. Compared, in turns, with the usual chain in two processes: loose JPEG files,
Pillow for decoding and every operation, one image at a time (crop, resize, flip, grey, the four colour
jitters in random order, rotation, normalisation), batches handed over in shared memory; and with
decoding alone, by `tf.io.decode_jpeg` in a parallel map and by the decoder used here. CPU time is that
of all threads and processes.
"""

import multiprocessing
import os
import tempfile
import time
from multiprocessing import shared_memory

import harness  # isort: skip -- makes tce_tf importable
import bench_shards
import numpy as np
from PIL import Image, ImageEnhance

BATCH = 64
IMAGE_SIZE = 224
SHORT_SIDE = 256
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
GOALS = {"cpu_per_sample": 6.0}


def make_data(root: str, num_videos: int, num_frames: int) -> None:
    """Frame folders of 256 x 340 px, and shards that hold the same JPEG bytes."""
    from tce_tf.data import conversion, pictures, plan

    for video in range(num_videos):
        folder = os.path.join(root, "frames", f"{video:04d}")
        os.makedirs(folder)
        for number, image in enumerate(bench_shards.frames(SHORT_SIDE, 340, num_frames, video)):
            with open(os.path.join(folder, f"{number:04d}.jpg"), "wb") as file:
                file.write(pictures.encode_jpeg(image, 90))
    options = plan.Options(
        os.path.join(root, "frames"), os.path.join(root, "shards"), layout="flat", num_shards=4
    )
    conversion.make_tfrecords(options)


class Ours:
    """The pipeline of `train`, and the views it compiles."""

    def __init__(self, root: str):
        from tce_tf.data import augmentation, pipeline, shard_reader

        reader = shard_reader.ShardReader([os.path.join(root, "shards")])
        self._inputs = pipeline.TrainingInput(
            reader, batch_size=min(BATCH, len(reader.names)), frame_gap=(1, 1), seed=0
        )
        self._views = augmentation.compile_training_views(image_size=IMAGE_SIZE, jit_compile=True)
        self._step = 0

    def run(self, num_batches: int) -> int:
        """Loads batches and makes their views; returns the number of samples."""
        count = 0
        for batch in self._inputs.dataset(start_step=self._step, num_steps=num_batches):
            views = self._views(batch)
            count += int(next(iter(views.values())).shape[0])
        next(iter(views.values())).numpy()  # waits for the last one
        self._step += num_batches
        return count


def pil_sample(paths: tuple[str, str], rng: np.random.Generator) -> list[np.ndarray]:
    """Three views of two neighbouring frames, with Pillow and NumPy, one image at a time."""
    anchor, positive = (Image.open(path).convert("RGB") for path in paths)
    views = []
    shared = rng.random(3)
    for image, place, turns in (
        (anchor, shared, 0), (positive, shared, 0), (anchor, rng.random(3), rng.integers(4))
    ):  # fmt: skip
        side = SHORT_SIDE * 224 // 256
        left = int(place[0] * (image.width - side + 1))
        top = int(place[1] * (image.height - side + 1))
        view = image.crop((left, top, left + side, top + side))
        view = view.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        if place[2] < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < 0.5:
            channel = view.getchannel(int(rng.integers(3)))
            view = Image.merge("RGB", (channel, channel, channel))
        for operation in rng.permutation(4):
            view = _jitter(view, operation, rng)
        view = view.rotate(90 * int(turns))
        views.append((np.asarray(view, np.float32) / 255 - MEAN) / STD)
    return views


def _jitter(view: Image.Image, operation: int, rng: np.random.Generator) -> Image.Image:
    if operation < 3:
        kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation]
        return kind(view).enhance(rng.uniform(0.5, 1.5))
    hue, saturation, value = view.convert("HSV").split()
    shift = np.uint8(int(rng.uniform(-0.25, 0.25) * 255) % 256)
    shifted = Image.fromarray(np.asarray(hue, np.uint8) + shift)
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")


def pil_batch(job: tuple[list[tuple[str, str]], int, str]) -> tuple[int, float]:
    """One batch in a worker process, into shared memory: its size, and its CPU-seconds there."""
    pairs, seed, memory = job
    started = time.process_time()
    rng = np.random.default_rng(seed)
    samples = [pil_sample(pair, rng) for pair in pairs]
    block = shared_memory.SharedMemory(memory)
    np.stack([np.stack(views) for views in samples], out=_batch_in(block, len(samples)))
    block.close()
    return len(samples), time.process_time() - started


def _batch_in(block: shared_memory.SharedMemory, count: int) -> np.ndarray:
    """The views of a batch in shared memory: float32 [count, 3, S, S, 3]."""
    return np.ndarray((count, 3, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32, block.buf)


class Pillow:
    """The usual chain: two worker processes, whose batches become tensors of this process."""

    def __init__(self, root: str, pool, batch_size: int):
        self._root, self._pool, self._seed = root, pool, 0
        size = 4 * batch_size * 3 * IMAGE_SIZE * IMAGE_SIZE * 3
        self._blocks = [shared_memory.SharedMemory(create=True, size=size) for _ in range(2)]
        self.worker_cpu: list[float] = []

    def run(self, num_batches: int) -> int:
        """Makes batches, two at a time; returns the number of samples."""
        import tensorflow as tf

        total, cpu = 0, 0.0
        for first in range(0, num_batches, 2):
            jobs = [
                (*job, block.name)
                for job, block in zip(
                    pil_jobs(self._root, min(2, num_batches - first), self._seed),
                    self._blocks,
                    strict=False,
                )
            ]
            self._seed += 2
            done = self._pool.map(pil_batch, jobs, chunksize=1)
            for (count, seconds), block in zip(done, self._blocks, strict=False):
                tf.constant(_batch_in(block, count))
                total, cpu = total + count, cpu + seconds
        self.worker_cpu.append(cpu)
        return total

    def close(self) -> None:
        """Gives the shared memory back."""
        for block in self._blocks:
            block.close()
            block.unlink()


def pil_jobs(root: str, num_batches: int, seed: int) -> list:
    """Pairs of neighbouring frames, as batches."""
    rng = np.random.default_rng(seed)
    frames = os.path.join(root, "frames")
    videos = sorted(os.listdir(frames))
    names = sorted(os.listdir(os.path.join(frames, videos[0])))
    jobs = []
    for number in range(num_batches):
        pairs = []
        for video in rng.choice(videos, min(BATCH, len(videos)), replace=False):
            first = int(rng.integers(len(names) - 1))
            pairs.append(tuple(os.path.join(frames, video, names[first + i]) for i in (0, 1)))
        jobs.append((pairs, seed + number))
    return jobs


def decode_contenders(root: str, num_frames: int) -> dict:
    """Decoding alone of so many frames, in two ways."""
    import tensorflow as tf

    from tce_tf.data import decoding, shard_reader

    reader = shard_reader.ShardReader([os.path.join(root, "shards")])
    rng = np.random.default_rng(0)
    videos = rng.integers(0, len(reader.names), num_frames)
    frames = rng.integers(0, int(reader.num_frames[0]), num_frames)
    jpegs = reader.read_frames(videos, frames)
    dataset = tf.data.Dataset.from_tensor_slices(jpegs).map(
        lambda jpeg: tf.io.decode_jpeg(jpeg, channels=3), num_parallel_calls=tf.data.AUTOTUNE
    )

    def by_tensorflow():
        dataset.reduce(0, lambda total, image: total + tf.shape(image)[0] // SHORT_SIDE).numpy()

    def by_simplejpeg():
        for first in range(0, num_frames, 2 * BATCH):
            part = slice(first, first + 2 * BATCH)
            decoding.for_each_frame(reader, videos[part], frames[part], lambda i, pixels: None)

    return {"tf.io.decode_jpeg alone": by_tensorflow, "our reading and decoding": by_simplejpeg}


def main() -> None:
    """Measures and reports."""
    arguments = harness.parser(__doc__).parse_args()
    num_videos, num_frames = (8, 4) if arguments.quick else (256, 12)
    num_batches, pil_batches, rounds = (2, 2, 1) if arguments.quick else (24, 6, 9)
    with tempfile.TemporaryDirectory(prefix="bench_input-") as root:
        make_data(root, num_videos, num_frames)
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            pipeline = Ours(root)
            pillow = Pillow(root, pool, min(BATCH, num_videos))
            counts = {}

            def run_ours():
                counts["ours"] = pipeline.run(num_batches)

            def run_pil():
                counts["PIL"] = pillow.run(pil_batches)

            counts["decode"] = min(BATCH, num_videos) * num_batches
            contenders = {"ours": run_ours, "PIL": run_pil}
            contenders |= decode_contenders(root, 2 * counts["decode"])
            timings = harness.interleave(contenders, rounds=rounds, warmup=1)
            pillow.close()
    pil_cpu = pillow.worker_cpu[1:]  # the first is the warm-up's
    samples = {name: counts.get(name, counts["decode"]) for name in timings}
    cpu = {name: [s / samples[name] for s in timing.cpu] for name, timing in timings.items()}
    # The work of Pillow's chain is done in two other processes.
    cpu["PIL"] = [
        (own + s) / counts["PIL"] for own, s in zip(timings["PIL"].cpu, pil_cpu, strict=True)
    ]
    rates = {name: [samples[name] / s for s in timing.wall] for name, timing in timings.items()}
    medians = {name: float(np.median(values)) for name, values in cpu.items()}
    labels = {"ours": "our pipeline and views", "PIL": "Pillow, two processes"}
    harness.print_table(
        ("2 frames, 3 views a sample", "samples/s", "spread %", "CPU ms a sample", "spread %"),
        [
            (labels.get(name, name), float(np.median(rates[name])),
             100 * harness.spread(rates[name]), 1e3 * medians[name],
             100 * harness.spread(cpu[name]))
            for name in timings
        ],
    )  # fmt: skip
    ratios = {
        "cpu_per_sample": harness.ratio(cpu["PIL"], cpu["ours"]),
        "samples_per_second": harness.ratio(rates["ours"], rates["PIL"]),
        "decoding_share": harness.ratio(cpu["our reading and decoding"], cpu["ours"]),
        "tf_decode_share": harness.ratio(cpu["tf.io.decode_jpeg alone"], cpu["ours"]),
    }
    shares = [100 * ratios[name] for name in ("decoding_share", "tf_decode_share")]
    print(
        f"\nReading and decoding is {shares[0]:.0f} % of our CPU time a sample; "
        f"tf.io.decode_jpeg alone would be {shares[1]:.0f} % of it."
    )
    harness.finish(ratios, GOALS, packages=("pillow", "simplejpeg"), quick=arguments.quick)


if __name__ == "__main__":
    main()
