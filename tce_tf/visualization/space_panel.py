"""How is one encoder's space drawn? Frames as points coloured by time, each video's joined in order.

Colours can be told apart by the colour-blind: viridis for time, Okabe and Ito's for videos and classes.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator

import numpy as np

from tce_tf.evaluation import coherence, confusion
from tce_tf.visualization.collection import Collection

# Okabe and Ito 2008, without black and with yellow last: it is faint on white.
GROUP_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#8A8A8A",
    "#F0E442",
)
_PATH_COLOUR = "#9A9A9A"
_TIME_RANGE = (0.0, 0.93)  # of viridis: its last yellow cannot be seen on white
_FIGURES = (
    ("neighbour_cosine", "neighbours"),
    ("other_cosine", "others"),
    ("relative_step", "step"),
    ("curvature", "curvature"),
    ("order_tau", "order"),
    ("effective_rank", "rank"),
)
EXPLANATION = {
    "neighbour_cosine": "neighbours: mean cosine of neighbouring frames (near 1 is smooth)",
    "other_cosine": "others: of frames of different videos (far below is better)",
    "relative_step": "step: squared distance of neighbours over that of videos (small is better)",
    "curvature": "curvature: mean angle between steps of the path in degrees (less is smoother)",
    "order_tau": "order: Kendall's tau of time and the walk to the most similar frame (1 is in order)",
    "effective_rank": "rank: dimensions in use",
}


def title(encoder: str) -> str:
    """What stands above the panel of an encoder, from how `--encoder` named it."""
    if encoder in ("random", "none"):
        return "random weights"
    if encoder.startswith("imagenet:"):
        return f"ImageNet: {confusion.short_name(os.path.basename(encoder))}"
    parts = [part for part in encoder.split("/") if part]
    return confusion.short_name("/".join(parts[-2:]))


def figures(collection: Collection) -> dict[str, float]:
    """`coherence.coherence_figures` of the frames shown: neighbours are what is joined by a line."""
    return coherence.coherence_figures([collection.vectors[path] for path in collection.paths()])


def figures_line(found: dict[str, float], *, in_a_line: int = len(_FIGURES)) -> str:
    """Those figures that stand under a panel, at most so many in a line."""
    shown = []
    for name, word in _FIGURES:
        if name in found:
            digits = {"effective_rank": 1, "curvature": 0, "relative_step": 4}.get(name, 3)
            shown.append(f"{word} {found[name]:.{digits}f}")
    lines = [shown[start : start + in_a_line] for start in range(0, len(shown), in_a_line)]
    return "\n".join("   ".join(line) for line in lines)


def explanations(found: dict[str, float]) -> list[str]:
    """What the words of `figures_line` mean, a line each."""
    return [EXPLANATION[name] for name, _ in _FIGURES if name in found]


def heading(collection: Collection) -> str:
    """How much is shown of what."""
    count = len(collection.names)
    what = confusion.short_name(collection.names[0]) if count == 1 else f"{count} videos"
    frames = len(collection.timestamps)
    text = f"{what}, {frames} frame{'s' if frames > 1 else ''}"
    low, high = int(collection.steps.min()), int(collection.steps.max())
    if high > 1:
        text += f", one of {high}" if low == high else f", one of {low} to {high}"
    return text


def times(collection: Collection) -> tuple[np.ndarray, str]:
    """What colours the points, float64 [n], and its name: seconds, or shares of each video."""
    seconds = collection.timestamps / 1e6
    if len(collection.names) == 1:
        return seconds, "seconds"
    share = np.zeros(len(seconds))
    for path in collection.paths():
        length = seconds[path[-1]] - seconds[path[0]]
        share[path] = (seconds[path] - seconds[path[0]]) / max(length, 1e-9)
    return share, "time, from each video's first frame to its last"


def groups(collection: Collection) -> tuple[list[int | None], list[str]]:
    """Which colour a video's line has, and their names: of videos, of classes where videos are many."""
    names = list(collection.names)
    if 1 < len(names) <= len(GROUP_COLOURS):
        return list(range(len(names))), [confusion.short_name(name) for name in names]
    classes = sorted({label for label in collection.labels if label is not None})
    if 1 < len(names) and 1 <= len(classes) <= len(GROUP_COLOURS):
        number = {name: i for i, name in enumerate(classes)}
        found = [number.get(label) for label in collection.labels]
        return found, [confusion.short_name(name) for name in classes]
    return [None] * len(names), []


def time_map():
    """The colour map of time."""
    import matplotlib
    from matplotlib import colors

    samples = matplotlib.colormaps["viridis"](np.linspace(*_TIME_RANGE, 256))
    return colors.ListedColormap(samples, name="time")


def draw(axes, collection: Collection, places: np.ndarray):
    """Draws paths, points, first and last frames into matplotlib axes.

    Args:
      axes: emptied of ticks here; one unit is equally long both ways.
      collection: the frames.
      places: float [n, 2].

    Returns:
      The points, for a colour bar.
    """
    of_video, _ = groups(collection)
    paths = collection.paths()
    few = _shows_ends(collection)
    for path, group in zip(paths, of_video, strict=True):
        axes.plot(
            *places[path].T,
            color=_PATH_COLOUR if group is None else GROUP_COLOURS[group],
            linewidth=1.2 if few else 0.8,
            zorder=1,
        )
    values, _ = times(collection)
    side = float(np.clip(260 / np.sqrt(len(places)), 6, 26))
    points = axes.scatter(
        *places.T, c=values, cmap=time_map(), s=side, linewidths=0, zorder=2, rasterized=True
    )
    if few:
        for ends, marker in ((0, "o"), (-1, "s")):
            chosen = [path[ends] for path in paths]
            axes.scatter(
                *places[chosen].T, marker=marker, s=62, facecolors="none", edgecolors="black",
                linewidths=1.3, zorder=3,
            )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.07)
    for spine in axes.spines.values():
        spine.set_color("#C8C8C8")
    axes.set_title(title(collection.encoder), fontsize=11, parse_math=False)
    axes.set_xlabel(figures_line(figures(collection), in_a_line=3), fontsize=9)
    return points


def legend_length(collection: Collection) -> int:
    """Entries of the legend."""
    _, names = groups(collection)
    return len(names) + 2 * _shows_ends(collection)


def add_legend(drawing, collection: Collection, *, columns: int, place: str) -> None:
    """Says in a figure what the colours of lines and the markers at their ends mean.

    Args:
      drawing: matplotlib figure or part of one.
      collection: as in `draw`.
      columns: of the legend.
      place: matplotlib's `loc`.
    """
    from matplotlib import lines

    handles, texts = [], []
    _, names = groups(collection)
    for colour, name in zip(GROUP_COLOURS, names, strict=False):
        handles.append(lines.Line2D([], [], color=colour, linewidth=2))
        texts.append(name)
    if _shows_ends(collection):
        for marker, name in (("o", "first frame"), ("s", "last frame")):
            handles.append(
                lines.Line2D([], [], marker=marker, linestyle="", color="black", fillstyle="none")
            )
            texts.append(name)
    if handles:
        legend = drawing.legend(handles, texts, loc=place, ncols=columns, fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)  # names are text, not formulas


def _shows_ends(collection: Collection) -> bool:
    return len(collection.names) <= len(GROUP_COLOURS)


@contextlib.contextmanager
def quiet_fonts() -> Iterator[None]:
    """A sign that the font lacks becomes a box, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
