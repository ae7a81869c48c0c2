"""How does one walk through an embedded collection? One HTML page: paths, frames, neighbours.

    page = space_page.space_page(collections, [projection.project(c.vectors) for c in collections])
    results_page.write("space.html", page)

The page is one file and fetches nothing. Its own parts are `space_page.html`, `.css` and `.js` beside
this file; points are drawn by plotly.js. Names reach it as JSON only and are shown as text.
"""

import base64
import importlib.resources
import json
import string
from collections.abc import Sequence

import numpy as np
import simplejpeg

from tce_tf import errors
from tce_tf.data import pictures
from tce_tf.evaluation import neighbours
from tce_tf.visualization import space_panel
from tce_tf.visualization.collection import Collection

NUM_NEIGHBOURS = 6
_THUMBNAIL_SIDE = 64  # px; with the quality some 1.2 KB a frame
_JPEG_QUALITY = 75


def space_page(
    collections: Sequence[Collection],
    positions: Sequence[np.ndarray],
    *,
    thumbnail_side: int = _THUMBNAIL_SIDE,
) -> str:
    """The page of some videos as one or several encoders see them.

    Args:
      collections: one an encoder, all of the same frames (`collection.collect`).
      positions: float [n, 2] for each, finite: where its frames lie in the plane.
      thumbnail_side: longer side of a frame on the page, px; smaller ones stay as they are.

    Returns:
      The HTML file's text.

    Raises:
      ValueError: collections of different frames, positions that do not fit them, or frames of a
        video apart.
      errors.UserError: plotly is not installed.
    """
    _check(collections, positions)
    first = collections[0]
    paths = first.paths()
    figures = [space_panel.figures(each) for each in collections]
    content = {
        "encoders": [
            {
                "name": each.encoder,
                "figures": space_panel.figures_line(found),
                "x": _rounded(places[:, 0]),
                "y": _rounded(places[:, 1]),
                "nearest": _nearest(each, elsewhere=False),
                "nearest_elsewhere": _nearest(each, elsewhere=True),
            }
            for each, places, found in zip(collections, positions, figures, strict=True)
        ],
        "videos": [
            {
                "name": name,
                "label": label,
                "start": int(path[0]),
                "count": len(path),
                **_sheet([first.thumbnails[frame] for frame in path], thumbnail_side),
            }
            for name, label, path in zip(first.names, first.labels, paths, strict=True)
        ],
        "explanations": space_panel.explanations(figures[0]),
        "seconds": [round(int(time) / 1e6, 3) for time in first.timestamps],
    }
    parts = importlib.resources.files("tce_tf.visualization")
    template = string.Template((parts / "space_page.html").read_text("utf-8"))
    return template.substitute(
        style=(parts / "space_page.css").read_text("utf-8"),
        script=(parts / "space_page.js").read_text("utf-8"),
        library=_library(),
        data=_script_json(content),
    )


def _check(collections: Sequence[Collection], positions: Sequence[np.ndarray]) -> None:
    if not collections or len(collections) != len(positions):
        raise ValueError(f"{len(collections)} collections, {len(positions)} sets of positions")
    first = collections[0]
    for each, places in zip(collections, positions, strict=True):
        if not np.array_equal(each.video_of_frame, first.video_of_frame):
            raise ValueError(f"{each.encoder} and {first.encoder} show different frames")
        if places.shape != (len(each.vectors), 2) or not np.isfinite(places).all():
            raise ValueError(f"positions of {each.encoder} must be finite, [n, 2]: {places.shape}")
    videos = np.unique(first.video_of_frame)
    if (np.diff(first.video_of_frame) < 0).any() or len(videos) != len(first.names):
        raise ValueError("frames of a video must stand together, in the order of the videos")


def _rounded(values: np.ndarray) -> list[float]:
    """Six digits: a screen shows four."""
    return [float(f"{value:.6g}") for value in values]


def _nearest(collection: Collection, *, elsewhere: bool) -> dict[str, list]:
    """For each frame the most similar others: numbers and cosines, best first.

    Args:
      collection: its vectors are compared whole, not where they lie in the plane.
      elsewhere: only frames of other videos.
    """
    video = np.asarray(collection.video_of_frame)
    frames, cosines = [], []
    for block, found in neighbours.similarities(collection.vectors, collection.vectors):
        places = np.arange(block.start, block.stop)
        if elsewhere:
            found[video[places][:, None] == video] = -np.inf
        else:
            found[np.arange(len(places)), places] = -np.inf
        best = neighbours.nearest(found, NUM_NEIGHBOURS)
        for row, values in zip(best, np.take_along_axis(found, best, 1), strict=True):
            real = np.isfinite(values)
            frames.append(row[real].tolist())
            cosines.append([round(float(value), 3) for value in values[real]])
    return {"frames": frames, "cosines": cosines}


def _sheet(thumbnails: Sequence[bytes], side: int) -> dict:
    """The frames of a video as one picture: a JPEG each would be half tables of the format.

    Returns:
      sheet: JPEG in base64; cell: [width, height] px of a frame; columns: frames in a row.
    """
    images = [
        _shrunk(simplejpeg.decode_jpeg(thumbnail, colorspace="RGB"), side)
        for thumbnail in thumbnails
    ]
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    columns = int(np.ceil(np.sqrt(len(images))))
    canvas = np.zeros((-(-len(images) // columns) * height, columns * width, 3), np.uint8)
    for number, image in enumerate(images):
        # Pictures of a folder may differ in size: a small one stands in the middle of its cell.
        top = number // columns * height + (height - image.shape[0]) // 2
        left = number % columns * width + (width - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    jpeg = pictures.encode_jpeg(canvas, _JPEG_QUALITY)
    return {
        "sheet": base64.b64encode(jpeg).decode(),
        "cell": [width, height],
        "columns": columns,
    }


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    share = min(side / max(height, width), 1)
    return pictures.resize(image, max(round(height * share), 1), max(round(width * share), 1))


def _script_json(content: object) -> str:
    """JSON that may stand in a <script>: no name can end it or open a comment there."""
    text = json.dumps(content, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _library() -> str:
    # Imported here: five megabytes of JavaScript, and only this page needs them.
    try:
        from plotly import offline
    except ImportError as error:
        raise errors.UserError("a page (.html) needs plotly: pip install plotly") from error
    return offline.get_plotlyjs()
