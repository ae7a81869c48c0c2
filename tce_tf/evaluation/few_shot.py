"""How good is an encoder with n labelled videos a class? Nearest class mean, over several draws.

The classifier has nothing to tune, so that it is defined from one video up: a test video gets the class
whose mean of n unit features is most similar to it (Snell et al. 2017, arXiv 1703.05175, with the cosine
as in Wang et al. 2019, "SimpleShot", arXiv 1911.04623). All classes compete. As in Goyal et al. 2019
(arXiv 1905.01235) the videos are drawn several times; mean and deviation are over the draws.
"""

import dataclasses

import numpy as np

from tce_tf.evaluation import neighbours

_STREAM = 0x6665775F  # keeps these draws apart from other uses of the same seed


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Accuracy in [0, 1]: mean over the draws, and their sample standard deviation.

    `by_video` is, for each test row, the share of draws that had it right: float64 [Q].
    """

    mean: float
    std: float
    by_video: np.ndarray = dataclasses.field(compare=False)


def few_shot_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    *,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    shots: int,
    draws: int = 10,
    seed: int = 0,
) -> FewShot:
    """Top-1 accuracy of the nearest class mean of `shots` training rows a class.

    Args:
      train_features: float [M, F], any norm.
      train_labels: int [M]; `rarest_class` must have at least `shots` rows.
      test_features: float [Q, F].
      test_labels: int [Q].
      shots: training rows drawn for each class, without replacement. The rows of a smaller number of
        shots are among those of a larger one in the same draw.
      draws: how often, at least 2.
      seed: of the draws.

    Raises:
      ValueError: a class has fewer rows than `shots`, fewer than 2 draws, or features that are not
        finite.
    """
    train, labels = neighbours.unit_rows(train_features), np.asarray(train_labels)
    known, counts = np.unique(labels, return_counts=True)
    if shots < 1 or counts.min() < shots:
        raise ValueError(f"{shots} shots of classes with {counts.min()} rows and more")
    if draws < 2:
        raise ValueError(f"{draws} draws: a deviation needs 2 or more")
    accuracies, by_video = [], np.zeros(len(test_labels))
    for draw in range(draws):
        chosen = draw_rows(labels, shots=shots, draw=draw, seed=seed)
        means = train[chosen].mean(axis=1)  # [C', F]
        right = np.concatenate(
            [
                known[neighbours.nearest(similarities, 1)[:, 0]] == test_labels[block]
                for block, similarities in neighbours.similarities(test_features, means)
            ]
        )
        accuracies.append(right.mean())
        by_video += right / draws
    return FewShot(float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)), by_video)


def draw_rows(labels: np.ndarray, *, shots: int, draw: int, seed: int) -> np.ndarray:
    """The rows of one draw: int64 [C', shots], a line for each class in label order."""
    # Raw Philox output is what NumPy promises to keep; a permutation by sorting needs no more.
    bits = np.random.Philox(np.random.SeedSequence([_STREAM, seed, draw])).random_raw(len(labels))
    order = np.argsort(bits, kind="stable")
    return np.stack([order[labels[order] == label][:shots] for label in np.unique(labels)])


def rarest_class(labels: np.ndarray) -> tuple[int, int]:
    """The label with the fewest rows, and their number."""
    known, counts = np.unique(labels, return_counts=True)
    return int(known[np.argmin(counts)]), int(counts.min())
