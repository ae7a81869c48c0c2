"""How many frames a second does one core turn into shards, and how does it scale with workers?

    python experiments/benchmarks/bench_shards.py

Videos are made here with PyAV: a textured scene that pans and zooms, at the bit rates of UCF101 and of
720p web video. Every figure is a whole `make_tfrecords` in a fresh process held to one core, workers,
shard and index writing included; only the start of the first worker is not counted. Short side 256,
JPEG quality 90. The folders of JPEGs have that size already and are copied byte for byte.
"""

import os
import shutil
import statistics
import tempfile
import time

import harness  # isort: skip -- makes tce_tf importable
import av
import numpy as np

from tce_tf.data import conversion, pictures, plan, video_source

# Name -> codec, height, width, bit rate, and the goal in frames/s per core.
VIDEOS = {
    "mpeg4_320x240": ("mpeg4", 240, 320, 500_000, 1200),
    "h264_320x240": ("libx264", 240, 320, 300_000, 900),
    "h264_1280x720": ("libx264", 720, 1280, 2_500_000, 150),
}
COPY = "jpeg_copy"
GOALS = {name: goal for name, (*_, goal) in VIDEOS.items()} | {COPY: 15_000}


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """A still with detail at all scales, 1.5 times the frame size: uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    shape = (height * 3 // 2, width * 3 // 2)
    image = np.zeros((*shape, 3), np.float32)
    for octave in range(1, 8):
        cells = rng.normal(0, 2.0**-octave, (2**octave, 2**octave * 4 // 3, 3)).astype(np.float32)
        frame = av.VideoFrame.from_ndarray(
            np.clip(128 + 128 * cells, 0, 255).astype(np.uint8), format="rgb24"
        )
        image += frame.reformat(shape[1], shape[0]).to_ndarray().astype(np.float32) - 128
    return np.clip(110 + image, 0, 255).astype(np.uint8)


def frames(height: int, width: int, count: int, seed: int):
    """Yields a panning view of a scene with a moving object and grain: uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    still = scene(height, width, seed)
    grain = rng.integers(-3, 4, (8, height, width, 1), np.int16)
    for number in range(count):
        top = int((height // 2) * (0.5 + 0.5 * np.sin(number / 40)))
        left = int((width // 2) * (0.5 + 0.5 * np.cos(number / 50)))
        view = still[top : top + height, left : left + width].astype(np.int16)
        x = (number * width // 150) % (width * 3 // 4)
        side = height // 6
        view[height // 3 : height // 3 + side, x : x + side] = still[:side, :side] // 2
        yield np.clip(view + grain[number % 8], 0, 255).astype(np.uint8)


def write_video(path, codec, height, width, bit_rate, count, seed) -> None:
    """Encodes a clip as a person would: default preset, key frames 250 apart at most."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.bit_rate = bit_rate
        for image in frames(height, width, count, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))


def make_inputs(root: str, quick: bool) -> dict[str, str]:
    """Makes every input folder; returns them by name."""
    inputs = {}
    for name, (codec, height, width, bit_rate, _) in VIDEOS.items():
        inputs[name] = os.path.join(root, name)
        os.makedirs(inputs[name])
        small = height < 720
        clips, count = (2, 20) if quick else (12, 250) if small else (4, 150)
        extension = "avi" if codec == "mpeg4" else "mp4"
        first = os.path.join(inputs[name], f"000.{extension}")
        for clip in range(clips):
            path = os.path.join(inputs[name], f"{clip:03d}.{extension}")
            if clip < 4:
                write_video(path, codec, height, width, bit_rate, count, clip)
            else:  # encoding is the slow part: the same four again
                shutil.copy(first.replace("000.", f"{clip % 4:03d}."), path)
    inputs[COPY] = os.path.join(root, COPY)
    jpegs = [pictures.encode_jpeg(image, 90) for image in frames(256, 340, 20 if quick else 200, 0)]
    for clip in range(2 if quick else 180):
        folder = os.path.join(inputs[COPY], f"{clip:03d}")
        if clip:
            shutil.copytree(folder.replace(f"{clip:03d}", "000"), folder, copy_function=os.link)
            continue
        os.makedirs(folder)
        for number, jpeg in enumerate(jpegs):
            with open(os.path.join(folder, f"{number:06d}.jpg"), "wb") as file:
                file.write(jpeg)
    return inputs


def convert(source: str, output: str, num_workers: int, cores: int) -> tuple[float, int]:
    """Makes shards on so many cores; returns seconds and frames. Runs in a process of its own."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    warm = os.path.join(output, "warm")
    os.makedirs(os.path.join(warm, "in"))
    for name in sorted(os.listdir(source))[:1]:  # starts the fork server
        os.symlink(os.path.join(source, name), os.path.join(warm, "in", name))
    conversion.make_tfrecords(
        plan.Options(os.path.join(warm, "in"), os.path.join(warm, "out"), layout="flat"),
        num_workers=num_workers,
    )
    os.sync()  # what earlier runs wrote must not share the disk with this one
    started = time.perf_counter()
    manifest = conversion.make_tfrecords(
        plan.Options(source, os.path.join(output, "shards"), layout="flat"),
        num_workers=num_workers,
    )
    return time.perf_counter() - started, manifest.num_frames


def rate(source: str, root: str, num_workers: int = 1, cores: int = 1) -> float:
    """Frames a second of one run."""
    output = tempfile.mkdtemp(dir=root)
    try:
        seconds, count = harness.in_process(convert, source, output, num_workers, cores).value
        return count / seconds
    finally:
        shutil.rmtree(output)


def stages(path: str) -> tuple[float, float, float]:
    """Milliseconds a frame of decoding, of colour conversion with resizing, of JPEG encoding."""
    decoded = [frame for _, frame in video_source.Source(path).frames()]
    target = pictures.Sizing(256).target(decoded[0].height, decoded[0].width)
    count = len(decoded)
    del decoded

    def timed(use):
        started = time.perf_counter()
        for _, frame in video_source.Source(path).frames():
            use(frame)
        return 1e3 * (time.perf_counter() - started) / count

    decode = timed(lambda frame: None)
    resize = timed(lambda frame: pictures.to_rgb(frame, *target))
    encode = timed(lambda frame: pictures.encode_jpeg(pictures.to_rgb(frame, *target), 90))
    return decode, resize - decode, encode - resize


def main() -> None:
    """Measures and reports."""
    arguments = harness.parser(__doc__).parse_args()
    rounds = 1 if arguments.quick else 7
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bench_shards-") as root:
        inputs = make_inputs(root, arguments.quick)
        found: dict[str, list[float]] = {name: [] for name in inputs}
        workers = sorted({1, 2, cores})
        scaling: dict[int, list[float]] = {count: [] for count in workers}
        for _ in range(rounds):
            for name, source in inputs.items():
                found[name].append(rate(source, root))
            for count in workers:
                scaling[count].append(rate(inputs["h264_320x240"], root, count, cores))
        harness.print_table(
            ("input, one core", "frames/s", "spread %", "goal"),
            [
                (name, statistics.median(rates), 100 * harness.spread(rates), GOALS[name])
                for name, rates in found.items()
            ],
        )
        harness.print_table(
            (f"--num_workers, h264_320x240 on {cores} cores", "frames/s", "times one", "spread %"),
            [
                (count, statistics.median(rates), harness.ratio(rates, scaling[1]),
                 100 * harness.spread(rates))
                for count, rates in scaling.items()
            ],
        )  # fmt: skip
        parts = [
            (name, *stages(os.path.join(inputs[name], sorted(os.listdir(inputs[name]))[0])))
            for name in VIDEOS
        ]
        harness.print_table(("ms a frame", "decode", "resize to RGB", "JPEG"), parts)
    ratios = {name: statistics.median(rates) for name, rates in found.items()}
    ratios |= {f"workers_{c}": harness.ratio(rates, scaling[1]) for c, rates in scaling.items()}
    harness.finish(ratios, GOALS, packages=("av", "simplejpeg"), quick=arguments.quick)


if __name__ == "__main__":
    main()
