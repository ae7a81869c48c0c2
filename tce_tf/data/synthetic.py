"""Where do labelled clips come from when no data set is at hand? From this generator.

`make_clips` writes small videos in UCF101's layout and naming, with its split lists:

    output/Ring/v_Ring_g01_c01.mp4      class folders; a group (g) is one scene, c its clips
    output/splits/classInd.txt, trainlist01.txt, testlist01.txt, settings.json

The class is the shape of the moving figure, see `synthetic_scenes`. A clip depends on the seed and on
its own class, group and clip number alone, never on how many clips are made. The same seed gives the
same bytes with the same versions of NumPy and PyAV on the same kind of processor.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable

import av
import numpy as np
from absl import logging

from tce_tf.data import synthetic_scenes
from tce_tf.errors import UserError

FPS = 25
CLIPS_PER_GROUP = 2
GROUPS_PER_ROUND = 3  # of every three groups the second is for testing
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
    clip: Clip, *, seed: int = 0, num_frames: int = 32, size: tuple[int, int] = (96, 128)
) -> Iterable[np.ndarray]:
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
    # One thread: the number of threads changes x264's output.
    if "libx264" in av.codecs_available:
        return "libx264", {"crf": "20", "preset": "veryfast", "threads": "1"}
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
