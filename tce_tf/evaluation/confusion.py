"""Which class is taken for which? A matrix of counts, as CSV and as a picture."""

import csv
import io
import warnings
from collections.abc import Sequence

import numpy as np

from tce_tf.data import storage

_LONGEST_NAME = 24  # characters in the picture; the CSV has all
_COUNTS_UP_TO = 20  # classes: beyond that numbers in the cells cannot be read
_INCHES_A_CLASS = (0.5, 0.16)  # with numbers in the cells, and without
_NAMES_UP_TO = 160  # classes: of more the picture does not grow, and every n-th is named


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 [C, C]: row = true class, column = predicted class.

    Args:
      labels: int [Q] in [0, num_classes).
      predictions: int [Q] in [0, num_classes).
      num_classes: C.
    """
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def write_csv(path: str, counts: np.ndarray, class_names: Sequence[str]) -> None:
    """Writes counts int [C, C] with the true class in the first column, predicted ones in the header.

    Raises:
      errors.UserError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["true class", *class_names])
    writer.writerows([name, *row] for name, row in zip(class_names, counts.tolist(), strict=True))
    storage.write_atomic(path, text.getvalue().encode())


def write_picture(path: str, counts: np.ndarray, class_names: Sequence[str], *, title: str) -> None:
    """Draws counts int [C, C] as a PNG: colour is the share of the true class's videos.

    Args:
      path: ends in .png.
      counts: rows without a video stay blank.
      class_names: shortened for the picture where long; a sign that the font lacks becomes a box.
      title: stands above.

    Raises:
      errors.UserError: the file cannot be written.
    """
    # Imported here: it costs a second, and only these pictures need it.
    from matplotlib import figure

    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    with_counts = len(class_names) <= _COUNTS_UP_TO
    every = -(-len(class_names) // _NAMES_UP_TO)
    side = 4 + min(len(class_names), _NAMES_UP_TO) * _INCHES_A_CLASS[0 if with_counts else 1]
    size = 8 if with_counts else 6
    # A figure without pyplot draws with Agg and keeps no global state.
    drawing = figure.Figure(figsize=(side + 1, side), dpi=120, layout="constrained")
    axes = drawing.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [short_name(name) for name in class_names[::every]]
    # Names are text, not formulas: parse_math would choke on a $ in one.
    ticks = np.arange(0, len(class_names), every)
    axes.set_xticks(ticks, names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(ticks, names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title, fontsize=10, parse_math=False)
    drawing.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    if with_counts:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center",
                      fontsize=size, color=colour)  # fmt: skip
    with warnings.catch_warnings():
        # The CSV beside it has every name in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        picture = io.BytesIO()
        drawing.savefig(picture, format="png")
    storage.write_atomic(path, picture.getvalue())


def short_name(name: str) -> str:
    """A class name that fits a picture: one line, the middle of a long one left out."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    if len(name) <= _LONGEST_NAME:
        return name
    head = (_LONGEST_NAME - 1) // 2
    return f"{name[:head]}…{name[-(_LONGEST_NAME - 1 - head) :]}"
