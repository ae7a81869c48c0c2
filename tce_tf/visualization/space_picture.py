"""What do several encoders make of the same footage, in one picture? A PNG of panels side by side."""

import io
import math
from collections.abc import Sequence

import numpy as np

from tce_tf.data import storage
from tce_tf.visualization import space_panel
from tce_tf.visualization.collection import Collection

_COLUMNS = 3
_PANEL_INCHES = (3.9, 4.0)
_LINE_INCHES = 0.17  # of the text below
_DPI = 110


def write(path: str, collections: Sequence[Collection], places: Sequence[np.ndarray]) -> None:
    """Draws a PNG, a panel an encoder.

    Args:
      path: ends in .png; written aside and renamed.
      collections: the same frames under each encoder, as `collection.collect` returns them.
      places: float [n, 2] for each.
    """
    # Imported here: it costs a second, and only pictures need it.
    from matplotlib import figure

    columns = min(_COLUMNS, len(collections))
    rows = math.ceil(len(collections) / columns)
    first = collections[0]
    lines = space_panel.explanations(space_panel.figures(first))
    legend_columns = int(columns * _PANEL_INCHES[0] / 1.9)
    legend_lines = math.ceil(space_panel.legend_length(first) / legend_columns)
    heights = (rows * _PANEL_INCHES[1] + 0.4, _LINE_INCHES * (len(lines) + legend_lines) + 0.15)
    # A figure without pyplot draws with Agg and keeps no global state.
    drawing = figure.Figure(
        figsize=(columns * _PANEL_INCHES[0] + 0.9, sum(heights)), dpi=_DPI, layout="constrained"
    )
    # Matplotlib's layout would let a legend and a text below the same figure overlap.
    top, bottom = drawing.subfigures(2, 1, height_ratios=heights)
    all_axes = top.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes[len(collections) :]:
        axes.set_axis_off()
    for axes, part, place in zip(all_axes, collections, places, strict=False):
        points = space_panel.draw(axes, part, place)
    _, meaning = space_panel.times(first)
    top.colorbar(points, ax=all_axes, shrink=0.8, aspect=30, label=meaning)
    top.suptitle(space_panel.heading(first), fontsize=12, parse_math=False)
    space_panel.add_legend(bottom, first, columns=legend_columns, place="upper center")
    bottom.text(
        0.5,
        0.08 / heights[1],
        "\n".join(lines),
        fontsize=8,
        color="#555555",
        ha="center",
        va="bottom",
    )
    buffer = io.BytesIO()
    with space_panel.quiet_fonts():
        drawing.savefig(buffer, format="png")
    storage.write_atomic(path, buffer.getvalue())
