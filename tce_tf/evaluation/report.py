"""How is an evaluation told? Lines for a person; JSON, CSV and pictures for what comes after."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tce_tf import errors
from tce_tf.data import storage
from tce_tf.evaluation import confusion, retrieval

_TITLES = {"knn": "kNN", "linear": "linear", "retrieval": "retrieval"}
_FIGURES = {"top1": "top-1", "top5": "top-5"} | {f"r{k}": f"R@{k}" for k in retrieval.KS}


def lines(scores: Mapping) -> Iterator[str]:
    """The scores as text: fractions in percent, deviations in brackets, data sets below.

    Deviations are over splits where there are several, of few-shot otherwise over draws.

    Args:
      scores: of `protocols.Result` or `protocols.average`.
    """
    spread = scores.get("std", {})
    for protocol, title in _TITLES.items():
        names = [f"{protocol}.{figure}" for figure in _FIGURES if f"{protocol}.{figure}" in scores]
        if names:
            yield f"{title} {_row(names, scores, spread)}"
            for dataset, table in scores["per_dataset"].items():
                yield f"  {dataset}: {_row(names, table, {})}"
    shots = [name for name in scores if name.startswith("few_shot.") and name.endswith(".mean")]
    if shots:
        yield "few-shot " + ", ".join(
            f"{name.split('.')[1]} a class "
            + _percent(scores[name], spread.get(name, scores[f"{name[:-4]}std"]))
            for name in shots
        )
        for dataset, table in scores["per_dataset"].items():
            yield f"  {dataset}: " + ", ".join(
                f"{name.split('.')[1]} a class {_percent(table[name], None)}"
                for name in shots
                if name in table
            )
    coherent = [name for name in scores if name.startswith("coherence.")]
    if coherent:
        yield "coherence " + ", ".join(
            f"{name.removeprefix('coherence.')} {scores[name]:.4g}" for name in coherent
        )
        for dataset, table in scores.get("coherence_per_dataset", {}).items():
            shown = ", ".join(f"{name} {value:.4g}" for name, value in table.items())
            yield f"  {dataset}: {shown}"


def _row(names, scores, spread) -> str:
    return ", ".join(
        f"{_FIGURES[name.split('.')[1]]} {_percent(scores[name], spread.get(name))}"
        for name in names
    )


def _percent(value: float, deviation: float | None) -> str:
    return f"{100 * value:.1f} %" + ("" if deviation is None else f" ({100 * deviation:.1f})")


def check_output(path: str) -> None:
    """Finds out before the work what would fail after it.

    Raises:
      errors.UserError: the path is a folder, or its folder cannot be made.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--output={path}: cannot be written: {error.strerror}") from error
    if os.path.isdir(path):
        raise errors.UserError(f"--output={path}: is a folder, give a file")


def write(
    path: str,
    scores: Mapping,
    matrices: Mapping[str, np.ndarray],
    class_names: Sequence[str],
) -> list[str]:
    """Writes the JSON and, for each matrix, `<path without .json>.<protocol>.confusion.csv` and `.png`.

    Args:
      path: of the JSON.
      scores: what goes into it.
      matrices: protocol -> int64 [C, C], row = true class.
      class_names: C names.

    Returns:
      The paths written.

    Raises:
      errors.UserError: one of them cannot be written.
    """
    written = [path]
    base = path.removesuffix(".json")
    for protocol, counts in matrices.items():
        files = [f"{base}.{protocol}.confusion.{suffix}" for suffix in ("csv", "png")]
        confusion.write_csv(files[0], counts, class_names)
        share = np.trace(counts) / max(counts.sum(), 1)
        title = f"{_TITLES[protocol]}: {100 * share:.1f} % of {counts.sum()} videos right"
        confusion.write_picture(files[1], counts, class_names, title=title)
        written += files
    # Last: a JSON stands for all of it.
    text = json.dumps(scores, indent=2, allow_nan=False) + "\n"
    storage.write_atomic(path, text.encode())
    return written
