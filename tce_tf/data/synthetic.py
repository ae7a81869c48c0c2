"""Where do labelled clips come from when no data set is at hand? From this generator.

`make_clips` writes small videos in UCF101's layout and naming, with its split lists:

    output/Tees/v_Tees_g01_c01.mp4      class folders; a group (g) is one scene, c its clips
    output/splits/classInd.txt, trainlist01.txt, testlist01.txt, settings.json

The class is the shape of the moving figure, see `synthetic_scenes`. A clip depends on the seed and on
its own class, group and clip number alone, never on how many clips are made. The same seed gives the
same bytes with the same versions of NumPy and PyAV on the same kind of processor.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Iterator

import av
import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import remote, synthetic_scenes

FPS = 25
CLIPS_PER_GROUP = 2
GROUPS_PER_ROUND = 3  # of every three groups the second is for testing
NUM_FRAMES = 32
SIZE = (96, 128)  # height, width
CLASS_NAMES = tuple(sorted(synthetic_scenes.FIGURES))
_SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip's place: class name, group and clip number (both from 1, as in UCF101)."""

    class_name: str
    group: int
    number: int

    @property
    def path(self) -> str:
        """The file's path below the output folder."""
        return f"{self.class_name}/v_{self.class_name}_g{self.group:02d}_c{self.number:02d}.mp4"

    @property
    def is_test(self) -> bool:
        """Whether the clip's group belongs to the test list."""
        return self.group % GROUPS_PER_ROUND == 2


def list_clips(num_videos: int, *, num_classes: int = len(CLASS_NAMES)) -> list[Clip]:
    """Places `num_videos` clips: classes in turn, then groups, so that few clips fill both lists.

    With 8 classes the first 8 clips are g01_c01 (train) of each class, the next 8 g02_c01 (test), then
    g03_c01 (train), g01_c02, g02_c02, g03_c02, and on with g04.
    """
    clips = []
    for i in range(num_videos):
        turn, class_index = divmod(i, num_classes)
        lap, within = divmod(turn, GROUPS_PER_ROUND * CLIPS_PER_GROUP)
        number, group = divmod(within, GROUPS_PER_ROUND)
        clips.append(Clip(CLASS_NAMES[class_index], GROUPS_PER_ROUND * lap + group + 1, number + 1))
    return clips


def _generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=place)))


def render_clip(
    clip: Clip, *, seed: int = 0, num_frames: int = NUM_FRAMES, size: tuple[int, int] = SIZE
) -> Iterator[np.ndarray]:
    """Yields a clip's `num_frames` frames: uint8 [H, W, 3] RGB, (H, W) = `size`."""
    class_index = CLASS_NAMES.index(clip.class_name)
    scene = synthetic_scenes.draw_scene(_generator(seed, class_index, clip.group))
    motion = synthetic_scenes.draw_motion(
        _generator(seed, class_index, clip.group, clip.number), num_frames=num_frames, fps=FPS
    )
    return synthetic_scenes.render(
        clip.class_name, scene, motion, height_px=size[0], width_px=size[1]
    )


@functools.cache
def _codec() -> tuple[str, dict[str, str]]:
    # Same bytes every time: one thread, and no macroblock tree, whose x264 assembly (core 165) gave up
    # to 28 different files in 60 encodings of the same frames.
    if "libx264" in av.codecs_available:
        return "libx264", {"crf": "20", "preset": "veryfast", "threads": "1", "mbtree": "0"}
    return "mpeg4", {"qscale": "3", "threads": "1"}


def write_video(path: pathlib.Path, frames: Iterable[np.ndarray], *, fps: int = FPS) -> None:
    """Encodes frames (uint8 [H, W, 3] RGB, H and W even) as an MP4 file that appears when complete."""
    name, options = _codec()
    partial = path.with_name(f".{path.name}.partial")
    with av.open(str(partial), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = None
        for image in frames:
            if stream is None:
                stream = container.add_stream(name, rate=fps, options=options)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)


def make_clips(
    output: str | pathlib.Path,
    *,
    num_videos: int = 96,
    seed: int = 0,
    num_classes: int = len(CLASS_NAMES),
    num_frames: int = NUM_FRAMES,
    size: tuple[int, int] = SIZE,
) -> list[Clip]:
    """Writes clips and split lists below `output`; finished files of an earlier run are left.

    Args:
      output: a new or empty folder, or one that this function made with the same settings.
      num_videos: how many clips there shall be; a later call may ask for more.
      seed: at least 0.
      num_classes: the first so many of `CLASS_NAMES`.
      num_frames: of each clip, at 25 frames a second.
      size: height and width in pixels, even numbers.

    Returns:
      The clips, in the order they were made.

    Raises:
      errors.UserError: a number out of range, or a folder that holds something else or cannot be
        written.
    """
    remote.require_local(str(output), "output", "a folder")
    _check(num_videos, "num_videos", 1)
    _check(seed, "seed", 0)
    _check(num_classes, "num_classes", 2, len(CLASS_NAMES))
    _check(num_frames, "num_frames", 1)
    if min(size) < 16 or size[0] % 2 or size[1] % 2:
        raise errors.FlagError(
            f"--size={size[0]}x{size[1]}: must be even numbers of pixels (HxW), at least 16"
        )
    output = pathlib.Path(output)
    settings = {
        "num_videos": num_videos,
        "seed": seed,
        "num_classes": num_classes,
        "num_frames": num_frames,
        "size": list(size),
    }
    clips = list_clips(num_videos, num_classes=num_classes)
    try:
        _claim_folder(output, settings)
        missing = [clip for clip in clips if not (output / clip.path).exists()]
        for clip in missing:
            path = output / clip.path
            path.parent.mkdir(exist_ok=True)
            frames = render_clip(clip, seed=seed, num_frames=num_frames, size=size)
            write_video(path, frames)
        _write_lists(output / "splits", clips)
    except OSError as error:
        raise errors.UserError(
            f"--output={output}: cannot write: {error.strerror or error}"
        ) from error
    num_test = sum(clip.is_test for clip in clips)
    logging.info(
        "%s: %d clips of %d classes (%d new), %d for training, %d for testing",
        output,
        len(clips),
        len({clip.class_name for clip in clips}),
        len(missing),
        len(clips) - num_test,
        num_test,
    )
    if num_videos < 2 * num_classes:
        logging.warning(
            "too few clips for a training and a test scene of each class: --num_videos=%d would do",
            2 * num_classes,
        )
    return clips


def _check(value: int, name: str, low: int, high: int | None = None) -> None:
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise errors.FlagError(f"--{name}={value}: must be {wanted}")


def _claim_folder(output: pathlib.Path, settings: dict) -> None:
    """Makes the folder and notes the settings in it, or sees that they are those noted before."""
    record = output / "splits" / _SETTINGS
    if record.exists():
        try:
            found = json.loads(record.read_text())
            num_found = found["num_videos"]
        except (ValueError, KeyError, TypeError) as error:
            raise errors.UserError(
                f"{record} is damaged: remove {output} and start again"
            ) from error
        for name, value in settings.items():
            if name != "num_videos" and found.get(name) != value:
                raise errors.UserError(
                    f"--output={output} holds clips made with {name} {found.get(name)}, not {value}: "
                    "choose another folder"
                )
        if num_found > settings["num_videos"]:
            raise errors.UserError(
                f"--output={output} holds {num_found} clips already: ask for --num_videos={num_found} "
                "or more, or choose another folder"
            )
    elif output.exists() and any(output.iterdir()):
        raise errors.UserError(
            f"--output={output} is not empty and was not made by make_synthetic: choose another folder"
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    # Before the first clip, so that an interrupted run can go on.
    _write_text(record, json.dumps(settings) + "\n")


def _write_lists(folder: pathlib.Path, clips: list[Clip]) -> None:
    """UCF101's lists: `1 Arrows`; `Arrows/v_Arrows_g01_c01.mp4 1` to train; the path alone to test."""
    labels = {name: i for i, name in enumerate(sorted({clip.class_name for clip in clips}), 1)}
    train = sorted(f"{clip.path} {labels[clip.class_name]}" for clip in clips if not clip.is_test)
    test = sorted(clip.path for clip in clips if clip.is_test)
    _write_text(
        folder / "classInd.txt", _lines(f"{label} {name}" for name, label in labels.items())
    )
    _write_text(folder / "trainlist01.txt", _lines(train))
    _write_text(folder / "testlist01.txt", _lines(test))


def _lines(items: Iterable[str]) -> str:
    return "".join(f"{item}\n" for item in items)


def _write_text(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
