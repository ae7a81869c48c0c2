"""Where is the frame that is seen now? A GIF or MP4 of the current frame beside its moving marker.

Everything that stands still is drawn once; a frame of the animation costs a copy and a marker a panel.
"""

import io
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from tce_tf.data import storage, synthetic
from tce_tf.evaluation import confusion
from tce_tf.visualization import space_panel
from tce_tf.visualization.collection import Collection

_FRAME_INCHES, _PANEL_INCHES, _HEIGHT_INCHES = 3.4, 3.4, 4.4
_DPI = 100
_RATES = (10, 30)  # frames a second shown at least and at most
_PALETTE_COLOURS = 128  # of a GIF: with 255 it is 1.6 times as large
_PALETTE_FRAMES = 12  # of a GIF, which its colours are taken from
MARKER_COLOUR = "#E6004C"


class Animation:
    """The pictures of an animation, one a frame of the footage, in order.

    Attributes:
      rate: frames a second: the footage's own where a viewer can follow it.
    """

    def __init__(self, collections: Sequence[Collection], places: Sequence[np.ndarray]):
        """Draws what stands still.

        Args:
          collections: the same frames under each encoder, as `collection.collect` returns them.
          places: float [n, 2] for each.
        """
        from matplotlib import figure
        from matplotlib.backends import backend_agg

        first = collections[0]
        self._collection, self._places = first, places
        self.rate = _rate(first)
        width = _FRAME_INCHES + len(collections) * _PANEL_INCHES
        drawing = figure.Figure(figsize=(width, _HEIGHT_INCHES), dpi=_DPI, layout="constrained")
        self._canvas = backend_agg.FigureCanvasAgg(drawing)
        frame_axes, *panels = drawing.subplots(1, 1 + len(collections))
        frame_axes.set_axis_off()
        # Holds the place of the caption, which changes with every frame.
        frame_axes.set_title(" \n ", fontsize=10)
        for axes, part, place in zip(panels, collections, places, strict=True):
            points = space_panel.draw(axes, part, place)
        _, meaning = space_panel.times(first)
        drawing.colorbar(points, ax=panels, shrink=0.7, aspect=30, label=meaning)
        space_panel.add_legend(
            drawing, first, columns=int(width / 1.9), place="outside lower center"
        )
        self._markers = [
            (axes, axes.plot([], [], "o", markersize=11, color=MARKER_COLOUR,
                             markeredgecolor="white", animated=True, zorder=5)[0])
            for axes in panels
        ]  # fmt: skip
        with space_panel.quiet_fonts():
            self._canvas.draw()
        # The layout is found: it must not move once pictures are pasted into it.
        drawing.set_layout_engine("none")
        box = frame_axes.get_window_extent()
        self._box = (int(box.x0), int(box.y0), int(box.width), int(box.height))
        self._caption = drawing.text(
            0, 0, "", fontsize=10, ha="center", va="bottom", animated=True, parse_math=False,
            transform=None,
        )  # fmt: skip
        self._still = self._canvas.copy_from_bbox(drawing.bbox)

    def __len__(self) -> int:
        return len(self._collection.timestamps)

    def picture(self, number: int) -> np.ndarray:
        """One picture: uint8 [H, W, 3], H and W even."""
        found = self._collection
        self._canvas.restore_region(self._still)
        for (axes, marker), places in zip(self._markers, self._places, strict=True):
            marker.set_data(*places[number : number + 1].T)
            axes.draw_artist(marker)
        frame = _fitted(found.thumbnails[number], self._box[2:])
        left, bottom, width, height = self._box
        bottom += (height - frame.shape[0]) // 2
        left += (width - frame.shape[1]) // 2
        name = confusion.short_name(found.names[found.video_of_frame[number]])
        self._caption.set_text(f"{name}\n{found.timestamps[number] / 1e6:.2f} s")
        self._caption.set_position((left + frame.shape[1] / 2, bottom + frame.shape[0] + 6))
        with space_panel.quiet_fonts():
            self._canvas.figure.draw_artist(self._caption)
        canvas = np.asarray(self._canvas.buffer_rgba())[..., :3].copy()
        top = canvas.shape[0] - bottom - frame.shape[0]
        canvas[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
        return canvas[: canvas.shape[0] // 2 * 2, : canvas.shape[1] // 2 * 2]

    def pictures(self) -> Iterator[np.ndarray]:
        """All pictures, one at a time."""
        return map(self.picture, range(len(self)))


def write_mp4(path: str, animation: Animation) -> None:
    """Writes an MP4 (H.264 where PyAV has it), one picture at a time; aside, and renamed."""
    folder = os.path.dirname(path) or "."
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as scratch:
        whole = pathlib.Path(scratch) / "space.mp4"
        synthetic.write_video(whole, animation.pictures(), fps=animation.rate)
        storage.publish(str(whole), path)


def write_gif(path: str, animation: Animation) -> None:
    """Writes a GIF that repeats. One palette for all pictures: only what moves is stored again."""
    chosen = np.linspace(0, len(animation) - 1, min(_PALETTE_FRAMES, len(animation))).astype(int)
    sample = np.concatenate([animation.picture(number) for number in chosen])
    palette = Image.fromarray(sample).quantize(_PALETTE_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    pictures = (
        Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE)
        for picture in animation.pictures()
    )
    buffer = io.BytesIO()
    # GIF counts in hundredths of a second.
    next(pictures).save(
        buffer, format="GIF", save_all=True, append_images=pictures,
        duration=round(100 / animation.rate) * 10, loop=0,
    )  # fmt: skip
    storage.write_atomic(path, buffer.getvalue())


def _rate(collection: Collection) -> int:
    """Frames a second of the frames shown, inside `_RATES`; the lower one for stills."""
    gaps = [np.diff(collection.timestamps[path]) for path in collection.paths()]
    gap = np.concatenate(gaps)
    if not len(gap):
        return _RATES[0]
    return int(np.clip(round(1e6 / max(float(np.median(gap)), 1.0)), *_RATES))


def _fitted(jpeg: bytes, box: tuple[int, int]) -> np.ndarray:
    """A JPEG as large as fits into (width, height) px: uint8 [h, w, 3]."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    share = min(box[0] / image.width, box[1] / image.height)
    size = (max(int(image.width * share), 1), max(int(image.height * share), 1))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
