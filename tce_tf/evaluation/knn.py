"""Which classes do the most similar training videos vote for? Weighted nearest neighbours.

The vote is that of Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination" (arXiv 1805.01978, section 3.4): each of the k training rows with the highest cosine
similarity s votes for its class with weight exp(s / temperature), temperature 0.07.
"""

from collections.abc import Iterator

import numpy as np

from tce_tf.evaluation import neighbours


def knn_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    *,
    test_features: np.ndarray,
    k: int,
    num_classes: int,
    temperature: float = 0.07,
) -> np.ndarray:
    """Scores every class for every test row by the weighted vote of its k nearest training rows.

    Args:
      train_features: float [M, F]; rows need not have unit norm, a zero row is similar to nothing.
      train_labels: int [M] in [0, num_classes).
      test_features: float [Q, F].
      k: neighbours that vote, at least 1; with fewer than k training rows all of them vote. Of equally
        similar rows the earlier one is taken.
      num_classes: columns of the result.
      temperature: > 0; the smaller, the more the nearest neighbours count.

    Returns:
      float64 [Q, num_classes], the class's share of the vote: rows sum to 1, and a class without a
      vote scores exactly 0.

    Raises:
      ValueError: no training rows, k or temperature not positive, shapes that do not fit, features
        that are not finite, or a label out of range.
    """
    labels = np.asarray(train_labels)
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f"labels {labels.min()}..{labels.max()} are not in [0, {num_classes})")
    scores = np.zeros((len(test_features), num_classes))
    for block, shares, _ in _votes(train_features, labels, test_features, k, temperature):
        scores[block, np.unique(labels)] = shares
    return scores


def knn_rank_classes(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    *,
    test_features: np.ndarray,
    k: int,
    temperature: float = 0.07,
) -> np.ndarray:
    """The classes in the order of the vote, for top-1 and top-5.

    With k neighbours at most k classes get a vote. The rest is ranked by each class's most similar
    training row, so that top-5 means something at k = 1: whether the class is among the five nearest.

    Args are those of `knn_predict`.

    Returns:
      int64 [Q, C'], best first, over the C' classes that have training rows; of equal ones the lower
      label first.

    Raises:
      ValueError: as `knn_predict`.
    """
    known = np.unique(train_labels)
    ranking = np.empty((len(test_features), len(known)), np.int64)
    for block, shares, closest in _votes(
        train_features, np.asarray(train_labels), test_features, k, temperature
    ):
        ranking[block] = known[np.lexsort((-closest, -shares))]
    return ranking


def _votes(
    train_features, labels, test_features, k, temperature
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Blocks of test rows: their place, shares of the vote and highest similarity, both [q, C']."""
    if labels.shape != (len(train_features),):
        raise ValueError(
            f"features {np.shape(train_features)} and labels {labels.shape} do not fit together"
        )
    if k < 1 or temperature <= 0:
        raise ValueError(f"k={k} and temperature={temperature} must be positive")
    known, column = np.unique(labels, return_inverse=True)
    by_class = np.argsort(column, kind="stable")
    first_of_class = np.searchsorted(column[by_class], np.arange(len(known)))
    for block, similarities in neighbours.similarities(test_features, train_features):
        nearest = neighbours.nearest(similarities, k)  # [q, k]
        votes = np.take_along_axis(similarities, nearest, axis=1).astype(np.float64)
        # Relative to the best neighbour: the same shares, and no overflow at a small temperature.
        votes = np.exp((votes - votes[:, :1]) / temperature)
        shares = np.zeros((len(votes), len(known)))
        np.add.at(shares, (np.arange(len(votes))[:, np.newaxis], column[nearest]), votes)
        shares /= shares.sum(axis=1, keepdims=True)
        closest = np.maximum.reduceat(similarities[:, by_class], first_of_class, axis=1)
        yield block, shares, closest
