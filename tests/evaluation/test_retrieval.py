"""Is R@k that of the field? The docstring's example, scikit-learn, a loop, limits."""

import numpy as np
import pytest
from sklearn import neighbors

from tce_tf.evaluation import neighbours, retrieval, top_k


def _random_problem(seed):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(60, 6)),
        rng.integers(0, 9, 60),
        rng.normal(size=(25, 6)),
        rng.integers(0, 9, 25),
    )


def recall(problem, **settings):
    gallery, gallery_labels, queries, query_labels = problem
    return retrieval.retrieval_recall_at_k(
        gallery, gallery_labels, query_features=queries, query_labels=query_labels, **settings
    )


def test_by_hand():
    # Gallery at 0, 90 and 30 degrees, of classes 0, 0, 1; a query at 14 degrees: order 0, 1, 0.
    at = np.radians([0.0, 90.0, 30.0])
    gallery = np.stack([np.cos(at), np.sin(at)], axis=1)
    query = 7 * np.array([[np.cos(np.radians(14)), np.sin(np.radians(14))]])
    found = recall((gallery, [0, 0, 1], query, [1]), ks=(1, 2, 3))
    assert found == {1: 0.0, 2: 1.0, 3: 1.0}
    assert recall((gallery, [0, 0, 1], query, [5]), ks=(1, 50)) == {1: 0.0, 50: 0.0}


def test_equals_scikit_learn_and_a_loop(monkeypatch):
    problem = _random_problem(0)
    gallery, gallery_labels, queries, query_labels = problem
    monkeypatch.setattr(neighbours, "_CHUNK_ROWS", 7)  # several blocks
    found = recall(problem)
    assert list(found) == [1, 5, 10, 20, 50]
    searcher = neighbors.NearestNeighbors(metric="cosine").fit(gallery)
    for k, value in found.items():
        order = searcher.kneighbors(queries, k, return_distance=False)
        expected = (gallery_labels[order] == query_labels[:, None]).any(axis=1).mean()
        assert value == pytest.approx(expected), k

        right = 0
        for query, label in zip(queries, query_labels, strict=True):
            cosine = [query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in gallery]
            best = sorted(range(60), key=lambda i: -cosine[i])[:k]
            right += any(gallery_labels[i] == label for i in best)
        assert value == pytest.approx(right / 25)


def test_invariances():
    problem = _random_problem(1)
    gallery, gallery_labels, queries, query_labels = problem
    found = recall(problem)
    values = list(found.values())
    assert values == sorted(values) and 0 < values[0] < 1
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    scale = np.random.default_rng(3).uniform(0.1, 9, size=(60, 1))
    order = np.random.default_rng(4).permutation(60)
    moved = ((gallery * scale @ turn)[order], gallery_labels[order], queries @ turn, query_labels)
    assert recall(moved) == pytest.approx(found)
    # All of the gallery: a query finds its class if it is there at all.
    assert recall(problem, ks=(60, 99)) == {
        k: pytest.approx(np.isin(query_labels, gallery_labels).mean()) for k in (60, 99)
    }


def test_of_equally_similar_rows_the_earlier_counts():
    twins = np.ones((3, 2))
    assert recall((twins, [2, 0, 1], np.ones((1, 2)), [2]), ks=(1,)) == {1: 1.0}
    assert recall((twins, [0, 2, 1], np.ones((1, 2)), [2]), ks=(1,)) == {1: 0.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: np.zeros((0, 6)), 1: np.zeros(0, int)}, "at least one training row"),
        ({2: np.zeros((0, 6)), 3: np.zeros(0, int)}, "got 0 queries"),
        ({1: np.zeros(3, int)}, "gallery features .* do not fit"),
        ({2: np.zeros((25, 2))}, "do not fit together"),
        ({2: np.full((25, 6), np.inf)}, "infinity"),
    ],
)
def test_bad_arguments_are_named(change, message):
    problem = dict(enumerate(_random_problem(5))) | change
    with pytest.raises(ValueError, match=message):
        recall(tuple(problem[i] for i in range(4)))


def test_top_k_and_its_tables():
    ranking = np.array([[2, 0, 1], [1, 2, 0], [0, 1, 2]])
    hits = top_k.hits(ranking, np.array([0, 1, 7]), (1, 2, 5))
    assert {k: hit.tolist() for k, hit in hits.items()} == {
        1: [False, True, False],
        2: [True, True, False],
        5: [True, True, False],  # a class that was never ranked is never right
    }
    members = {"a": np.array([True, True, False]), "b": np.array([False] * 3)}
    assert top_k.table({"x": hits[1], "y": hits[2]}, members) == {
        "a": {"videos": 2, "x": 0.5, "y": 1.0}
    }
