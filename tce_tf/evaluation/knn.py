"""Which classes do the most similar training videos vote for? Weighted nearest neighbours.

The vote is that of Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination" (arXiv 1805.01978, section 3.4): each of the k training rows with the highest cosine
similarity s votes for its class with weight exp(s / temperature), temperature 0.07.
"""

from typing import Any

import numpy as np

_CHUNK_ROWS = 1024  # bounds the similarity matrix at 1024 x M floats


def _unit_rows(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float32)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norms, np.finfo(np.float32).tiny)


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
    train_labels = np.asarray(train_labels)
    train, test = _unit_rows(train_features), _unit_rows(test_features)
    if len(train) == 0:
        raise ValueError("kNN needs at least one training row, got none")
    if train.shape[1] != test.shape[1] or train_labels.shape != (len(train),):
        raise ValueError(
            f"features {train.shape}, labels {train_labels.shape} and test features {test.shape} "
            "do not fit together"
        )
    if k < 1 or temperature <= 0:
        raise ValueError(f"k={k} and temperature={temperature} must be positive")
    if train_labels.min() < 0 or train_labels.max() >= num_classes:
        raise ValueError(
            f"labels {train_labels.min()}..{train_labels.max()} are not in [0, {num_classes})"
        )
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise ValueError("features contain NaN or infinity")
    k = min(k, len(train))
    scores = np.zeros((len(test), num_classes))
    for start in range(0, len(test), _CHUNK_ROWS):
        similarities = test[start : start + _CHUNK_ROWS] @ train.T  # [chunk, M]
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]  # [chunk, k]
        votes = np.take_along_axis(similarities, nearest, axis=1).astype(np.float64)
        # Relative to the best neighbour: the same shares, and no overflow at a small temperature.
        votes = np.exp((votes - votes[:, :1]) / temperature)
        rows = start + np.arange(len(votes))[:, None]
        np.add.at(scores, (rows, train_labels[nearest]), votes)
    return scores / scores.sum(axis=1, keepdims=True)


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    *,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int,
    num_classes: int,
    temperature: float = 0.07,
) -> dict[str, Any]:
    """How often the vote names the right class; arguments as in `knn_predict`, test_labels int [Q].

    A class that got no vote is never counted as right: with k = 1, top-5 equals top-1. Of classes with
    equal scores the one with the lower label ranks first.

    Returns:
      `knn.top1`, `knn.top5`: fractions in [0, 1] of the test rows; `per_class`: label -> top-1
      fraction, for the labels that occur in `test_labels`.

    Raises:
      ValueError: as `knn_predict`, or no test rows, or a test label out of range.
    """
    test_labels = np.asarray(test_labels)
    if len(test_labels) == 0 or len(test_labels) != len(test_features):
        raise ValueError(f"got {len(test_labels)} test labels for {len(test_features)} test rows")
    if test_labels.min() < 0 or test_labels.max() >= num_classes:
        raise ValueError(
            f"test labels {test_labels.min()}..{test_labels.max()} are not in [0, {num_classes})"
        )
    scores = knn_predict(
        train_features,
        train_labels,
        test_features=test_features,
        k=k,
        num_classes=num_classes,
        temperature=temperature,
    )
    ranking = np.argsort(-scores, axis=1, kind="stable")  # [Q, num_classes]
    rank = np.argmax(ranking == test_labels[:, None], axis=1)
    voted = scores[np.arange(len(scores)), test_labels] > 0
    top1 = voted & (rank < 1)
    return {
        "knn.top1": float(top1.mean()),
        "knn.top5": float((voted & (rank < 5)).mean()),
        "per_class": {
            int(label): float(top1[test_labels == label].mean()) for label in np.unique(test_labels)
        },
    }
