"""What do a query and its nearest items look like? A picture of thumbnails with their cosines."""

import io
import math
import os
import warnings
from collections.abc import Sequence

import numpy as np

from tce_tf.data import footage, storage
from tce_tf.evaluation import confusion, search
from tce_tf.evaluation.collection import Collection

_COLUMNS = 4
_SIDE_PX = 240  # thumbnails are made smaller than this before they are drawn
_INCHES = (2.2, 2.1)


def thumbnails(
    collection: Collection, items: Sequence[search.Item], *, root: str = ""
) -> tuple[list[np.ndarray | None], str]:
    """The frames that items were made of.

    Args:
      collection: where the items are from.
      items: as `search.nearest` returns them.
      root: where the footage lies now; by default where it was when it was embedded.

    Returns:
      For each item uint8 [H, W, 3], or None where the frame cannot be had; and a line that says how
      many cannot, empty if all can.

    Raises:
      errors.UserError: `root` holds damaged shards.
    """
    names = list(dict.fromkeys(item.name for item in items))
    sources = collection.sources(set(names))
    root = root or (collection.manifest or {}).get("root", "")
    videos: footage.Files | footage.Shards
    if root and footage.is_shards(root):
        videos = footage.Shards(root)
    else:
        named = [name for name in names if sources.get(name)]
        videos = footage.Files(root, named, [sources[name] for name in named])
    numbers = {name: number for number, name in enumerate(videos.names)}
    images: list[np.ndarray | None] = []
    gone = []
    for item in items:
        try:
            if item.name not in numbers:
                raise footage.VideoError(f"{item.name} is not in {root or 'any known folder'}")
            images.append(videos.frame_at(numbers[item.name], item.timestamp))
        except footage.VideoError as error:
            images.append(None)
            gone.append(str(error))
    if not gone:
        return images, ""
    return images, (
        f"no picture of {len(gone)} of {len(items)} items, the first: {gone[0]}; --input says where "
        "the footage lies now"
    )


def write(
    path: str,
    query: tuple[str, np.ndarray],
    items: Sequence[search.Item],
    images: Sequence[np.ndarray | None],
) -> None:
    """Draws a PNG: the query first, then the items in order.

    Args:
      path: ends in .png; written aside and renamed.
      query: its name and its picture, uint8 [H, W, 3].
      items: as `search.nearest` returns them.
      images: one each, None for a grey field.
    """
    # Imported here: it costs a second, and only this needs it.
    from matplotlib import figure

    name, picture = query
    fields = [(picture, f"query\n{confusion.short_name(name)}")]
    for rank, (item, image) in enumerate(zip(items, images, strict=True), start=1):
        title = f"{rank}: {item.cosine:.3f} at {search.clock(item.timestamp)}\n"
        fields.append((image, title + confusion.short_name(item.name)))
    columns = min(_COLUMNS, len(fields))
    rows = math.ceil(len(fields) / columns)
    # A figure without pyplot draws with Agg and keeps no global state.
    drawing = figure.Figure(
        figsize=(columns * _INCHES[0], rows * _INCHES[1]), dpi=120, layout="constrained"
    )
    all_axes = drawing.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes:
        axes.set_axis_off()
    for axes, (image, title) in zip(all_axes, fields, strict=False):
        if image is None:
            image = np.full((3, 4, 3), 200, np.uint8)
            axes.text(1.5, 1, "source gone", ha="center", va="center", fontsize=8)
        axes.imshow(_shrunk(image))
        # Names are text, not formulas: parse_math would choke on a $ in one.
        axes.set_title(title, fontsize=7, parse_math=False)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # The table has every name in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        drawing.savefig(picture, format="png")
    storage.make_folder(os.path.dirname(path) or ".")
    storage.write_atomic(path, picture.getvalue())


def _shrunk(image: np.ndarray) -> np.ndarray:
    """An image of at most some `_SIDE_PX` on its longer side, by taking every n-th pixel."""
    step = max(1, max(image.shape[:2]) // _SIDE_PX)
    return image[::step, ::step]
