"""The weighted kNN vote: hand-made points, the equation as a loop, scikit-learn, ties and limits."""

import math

import numpy as np
import pytest
from sklearn import neighbors

from tce_tf.evaluation import knn, neighbours

# Four training points at 0, 10, 90 and 100 degrees; the norm must not matter.
ANGLES = np.radians([0.0, 10.0, 90.0, 100.0])
POINTS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * np.array([[1.0], [5.0], [0.1], [2.0]])
LABELS = np.array([0, 0, 1, 2])


def _random_problem(seed: int):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(40, 6)),
        rng.integers(0, 5, 40),
        rng.normal(size=(17, 6)),
        rng.integers(0, 5, 17),
    )


def _loop_oracle(train, labels, test, k, num_classes, temperature):
    """Wu et al. 2018, section 3.4, one row and one neighbour at a time."""
    result = []
    for query in test:
        similarities = [
            float(query @ row / (np.linalg.norm(query) * np.linalg.norm(row))) for row in train
        ]
        nearest = sorted(range(len(train)), key=lambda i: (-similarities[i], i))[:k]
        scores = [0.0] * num_classes
        for i in nearest:
            scores[labels[i]] += math.exp(similarities[i] / temperature)
        result.append([score / sum(scores) for score in scores])
    return np.array(result)


def test_four_points_by_hand():
    at_80_degrees = np.array([[math.cos(math.radians(80)), math.sin(math.radians(80))]])
    scores = knn.knn_predict(
        POINTS, LABELS, test_features=at_80_degrees, k=2, num_classes=4, temperature=0.5
    )
    near, far = (
        math.exp(math.cos(math.radians(10)) / 0.5),
        math.exp(math.cos(math.radians(20)) / 0.5),
    )
    np.testing.assert_allclose(scores, [[0, near / (near + far), far / (near + far), 0]], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_equals_the_loop(k):
    train, labels, test, _ = _random_problem(0)
    scores = knn.knn_predict(train, labels, test_features=test, k=k, num_classes=5)
    np.testing.assert_allclose(scores, _loop_oracle(train, labels, test, k, 5, 0.07), atol=1e-5)


def test_chunks_do_not_change_the_result(monkeypatch):
    train, labels, test, _ = _random_problem(1)
    whole = knn.knn_predict(train, labels, test_features=test, k=7, num_classes=5)
    monkeypatch.setattr(neighbours, "_CHUNK_ROWS", 4)
    in_parts = knn.knn_predict(train, labels, test_features=test, k=7, num_classes=5)
    np.testing.assert_allclose(in_parts, whole, atol=1e-6)


def test_equals_scikit_learn():
    train, labels, test, truth = _random_problem(2)
    model = neighbors.KNeighborsClassifier(
        9, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train, labels)
    scores = knn.knn_predict(train, labels, test_features=test, k=9, num_classes=5)
    np.testing.assert_allclose(scores, model.predict_proba(test), atol=1e-5)
    ranking = knn.knn_rank_classes(train, labels, test_features=test, k=9)
    assert np.mean(ranking[:, 0] == truth) == pytest.approx(model.score(test, truth))


def test_ranking_by_hand():
    at = np.radians([5.0, 40.0, 92.0, 98.0])
    queries = np.stack([np.cos(at), np.sin(at)], axis=1)
    ranking = knn.knn_rank_classes(POINTS, LABELS, test_features=queries, k=1)
    # One vote: the class of the nearest point first, the others by their nearest point.
    np.testing.assert_array_equal(ranking, [[0, 1, 2], [0, 1, 2], [1, 2, 0], [2, 1, 0]])
    # Four votes at 40 degrees: class 0 at 30 and 40 degrees outweighs class 1 at 50.
    np.testing.assert_array_equal(
        knn.knn_rank_classes(POINTS, LABELS, test_features=queries[1:2], k=4), [[0, 1, 2]]
    )
    # At 98 degrees two votes of class 1 (1.8 degrees further in all) beat one of class 2.
    twice = np.concatenate([POINTS, POINTS[2:3]])
    np.testing.assert_array_equal(
        knn.knn_rank_classes(twice, np.append(LABELS, 1), test_features=queries[3:], k=3),
        [[1, 2, 0]],
    )


def test_ranking_orders_voters_by_vote_and_the_rest_by_their_nearest_row():
    train, labels, test, _ = _random_problem(4)
    labels = 3 * labels  # labels need not be 0..C-1
    scores = knn.knn_predict(train, labels, test_features=test, k=6, num_classes=13)
    ranking = knn.knn_rank_classes(train, labels, test_features=test, k=6)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    similarities = unit(test) @ unit(train).T
    for row, order in enumerate(ranking):
        assert sorted(order) == [0, 3, 6, 9, 12]
        closest = {c: similarities[row, labels == c].max() for c in order}
        expected = sorted(order, key=lambda c: (-scores[row, c], -closest[c]))
        assert list(order) == expected


def test_ties():
    twins = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    query = np.array([[2.0, 0.0]])
    first = knn.knn_predict(twins, np.array([2, 0, 1]), test_features=query, k=1, num_classes=3)
    np.testing.assert_array_equal(first, [[0, 0, 1]])  # equally similar: the earlier row
    ranking = knn.knn_rank_classes(twins, np.array([2, 0, 1]), test_features=query, k=3)
    np.testing.assert_array_equal(ranking, [[0, 1, 2]])  # equal votes: the lower label


def test_k_beyond_the_rows_and_extreme_temperatures():
    train, labels, test, _ = _random_problem(3)
    all_rows = knn.knn_predict(train, labels, test_features=test, k=40, num_classes=5)
    np.testing.assert_array_equal(
        knn.knn_predict(train, labels, test_features=test, k=1000, num_classes=5), all_rows
    )
    sharp = knn.knn_predict(
        train, labels, test_features=test, k=40, num_classes=5, temperature=1e-5
    )
    nearest = knn.knn_predict(train, labels, test_features=test, k=1, num_classes=5)
    np.testing.assert_allclose(sharp, nearest, atol=1e-6)
    zero = knn.knn_predict(train, labels, test_features=np.zeros((1, 6)), k=3, num_classes=5)
    assert np.isfinite(zero).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"num_classes": 2}, r"0\.\.2 are not in \[0, 2\)"),
        ({"test_features": np.zeros((1, 3))}, "do not fit"),
        ({"test_features": np.full((1, 2), np.nan)}, "NaN"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"test_features": POINTS, "k": 1, "num_classes": 3} | change
    with pytest.raises(ValueError, match=message):
        knn.knn_predict(POINTS, LABELS, **arguments)


def test_empty_sets_are_named():
    with pytest.raises(ValueError, match="at least one training row"):
        knn.knn_predict(
            np.zeros((0, 2)), np.zeros(0, int), test_features=POINTS, k=1, num_classes=3
        )
