"""How coherent in time are an encoder's vectors? Figures that need no labels.

All are taken on vectors of unit norm, from runs of consecutive frames of several videos:

    neighbour_cosine  mean cosine of frames t and t + 1 of a video
    other_cosine      mean cosine of frames of different videos
    relative_step     mean squared distance of frames t and t + 1 over that of different videos
    cosine_at.<d>     mean cosine of frames t and t + d: how fast likeness fades
    curvature         mean angle in degrees between a step and the next. See `curvature`
    order_tau         is the order of the frames in their vectors? See `order_consistency`
    alignment         mean squared distance of frames t and t + 1 (lower is better; 2 - 2 cosine)
    uniformity        log mean exp(-2 squared distance) of frames of different videos (lower is better)
    effective_rank    exp of the entropy of the singular values of all frames, from 1 to F

Alignment and uniformity are those of Wang and Isola 2020 (arXiv 2005.10242), with neighbouring frames as
the positive pair; effective rank is that of Roy and Vetterli 2007 ("The effective rank: a measure of
effective dimensionality"), not centred, as Garrido et al. 2023 (arXiv 2210.02885) use it for encoders.
Neighbours alone say little: the features of random weights are all alike (cosine 0.98 between videos),
so a step counts relative to the distance of videos, and by where the next one leads.
Every video weighs the same, however long its run.
"""

from collections.abc import Sequence

import numpy as np

from tce_tf.evaluation import neighbours

_ALIKE = 1e-12  # squared distance of unit vectors in float64 that is round-off


def coherence_figures(runs: Sequence[np.ndarray]) -> dict[str, float]:
    """The figures of this file's docstring.

    Args:
      runs: one float [T, F] a video, its consecutive frames in order; T may differ.

    Returns:
      name -> figure, without those that the runs cannot give: of neighbours where no run has two
      frames, `cosine_at.<d>` (d = 1, 2, 4, ...) beyond the longest run, `curvature` where none has three
      that differ, `order_tau` where none has four frames, of different videos where there is one,
      `relative_step` where all videos are one vector.

    Raises:
      ValueError: no runs, or values that are not finite.
    """
    runs = [neighbours.unit_rows(run).astype(np.float64) for run in runs]
    if not runs:
        raise ValueError("coherence needs at least one video")
    longest = max(map(len, runs))
    distances = [2**i for i in range(longest.bit_length()) if 2**i < longest]
    cosines = {d: _cosine_at(runs, d) for d in distances}
    figures = {}
    if cosines:
        figures["neighbour_cosine"] = cosines[1]
        figures["alignment"] = 2 - 2 * cosines[1]
    figures |= {f"cosine_at.{d}": value for d, value in cosines.items()}
    angles = [angle for angle in map(curvature, runs) if angle is not None]
    if angles:
        figures["curvature"] = float(np.mean(angles))
    orders = [order_consistency(run) for run in runs if len(run) >= 4]
    if orders:
        figures["order_tau"] = float(np.mean(orders))
    if len(runs) > 1:
        figures["other_cosine"] = _cosine_of_others(runs)
        apart = 2 - 2 * figures["other_cosine"]
        if cosines and apart > _ALIKE:
            figures["relative_step"] = figures["alignment"] / apart
        figures["uniformity"] = uniformity(np.stack([run[len(run) // 2] for run in runs]))
    return figures | {"effective_rank": effective_rank(np.concatenate(runs))}


def _cosine_at(runs, distance: int) -> float:
    long_enough = [run for run in runs if len(run) > distance]
    return float(
        np.mean([np.mean(np.sum(x[:-distance] * x[distance:], axis=1)) for x in long_enough])
    )


def _cosine_of_others(runs) -> float:
    """Mean over pairs of videos of the mean over their pairs of frames."""
    means = np.stack([run.mean(axis=0) for run in runs])
    # The sum over all pairs of means is the square of their sum; the pairs of a video with itself go.
    pairs = np.sum(means.sum(axis=0) ** 2) - np.sum(means**2)
    return float(pairs / (len(runs) * (len(runs) - 1)))


def curvature(run: np.ndarray) -> float | None:
    """Mean angle in degrees between successive steps of a path, as Henaff et al. 2019 measure it.

    0: the path is straight; 90: each step forgets the last; 120: independent noise on one vector. Less
    is smoother ("Perceptual straightening of natural videos", Nature Neuroscience 22). A step of no
    length, as between frames stored twice, has no direction and is left out.

    Args:
      run: float [T, F], rows of unit norm.

    Returns:
      From 0 to 180; None where fewer than two steps have a direction.
    """
    steps = np.diff(run, axis=0)
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    moves = lengths[:, 0] ** 2 > _ALIKE
    steps = steps[moves] / lengths[moves]
    if len(steps) < 2:
        return None
    cosines = np.sum(steps[1:] * steps[:-1], axis=1)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).mean())


def order_consistency(run: np.ndarray) -> float:
    """Kendall's tau between time and the order found by following the most similar frame.

    Walk from the first frame to the most similar one not yet visited, and so on: tau compares the order
    of the walk with that of time. 1: the vectors run through the video in order; about 0: they hold no
    order, as do repeated or periodic scenes. Where frames are equally similar, taking the earlier one
    and taking the later one are both walked and averaged: a constant vector scores 0. Kendall's tau as
    a measure of learned order is from Dwibedi et al. 2019 (arXiv 1904.07846), who match the frames of
    two videos; this form needs one.

    Args:
      run: float [T, F], T at least 3, rows of unit norm.

    Returns:
      tau in [-1, 1], over all frames but the first, which is given.
    """
    similarity = run @ run.T
    last = len(run) - 1
    taus = []
    for earlier_first in (True, False):
        left = np.ones(len(run), bool)
        walk = [0]
        for _ in range(last):
            left[walk[-1]] = False
            candidates = np.where(left, similarity[walk[-1]], -np.inf)
            best = np.argmax(candidates) if earlier_first else last - np.argmax(candidates[::-1])
            walk.append(int(best))
        first, second = np.triu_indices(last, 1)
        found = np.array(walk[1:])
        taus.append(np.mean(np.sign(found[second] - found[first])))
    return float(np.mean(taus))


def uniformity(rows: np.ndarray) -> float:
    """log of the mean of exp(-2 ||x - y||^2) over pairs of different rows, float [V, F] of unit norm."""
    total = 0.0
    for block, cosines in neighbours.similarities(rows, rows):
        terms = np.exp(4 * cosines.astype(np.float64) - 4)  # ||x - y||^2 = 2 - 2 cosine
        total += terms.sum() - np.diagonal(terms[:, block]).sum()
    return float(np.log(total / (len(rows) * (len(rows) - 1))))


def effective_rank(rows: np.ndarray) -> float:
    """exp of the entropy of the singular values of float [M, F] over their sum; 0 if all are 0."""
    # Squares of the singular values: the F x F product stays small however many frames there are.
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(rows.T @ rows), 0))
    if not values.sum():
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
