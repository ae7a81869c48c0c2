"""Is few-shot accuracy the nearest class mean over fair draws? scikit-learn, all videos, the draws."""

import numpy as np
import pytest
from sklearn import neighbors

from tce_tf.evaluation import few_shot


def _problem(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1, 4], [8, 9, 12]))
    centres = rng.normal(size=(5, 6))
    truth = rng.choice([0, 1, 4], 40)
    return (
        centres[labels] + rng.normal(size=(29, 6)),
        labels,
        centres[truth] + rng.normal(size=(40, 6)),
        truth,
    )


def score(problem, **settings):
    train, labels, test, truth = problem
    return few_shot.few_shot_accuracy(
        train, labels, test_features=test, test_labels=truth, **settings
    )


@pytest.mark.parametrize("shots", [1, 3, 8])
def test_equals_scikit_learn_on_the_same_draws(shots):
    train, labels, test, truth = problem = _problem()
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    expected = []
    for draw in range(5):
        rows = few_shot.draw_rows(labels, shots=shots, draw=draw, seed=3)
        for label, chosen in zip([0, 1, 4], rows, strict=True):
            assert (labels[chosen] == label).all() and len(set(chosen)) == shots
        means = np.stack([unit[chosen].mean(axis=0) for chosen in rows])
        nearest = neighbors.KNeighborsClassifier(1, metric="cosine").fit(means, [0, 1, 4])
        expected.append(nearest.predict(test) == truth)
    found = score(problem, shots=shots, draws=5, seed=3)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.std == pytest.approx(np.std(np.mean(expected, axis=1), ddof=1))
    np.testing.assert_allclose(found.by_video, np.mean(expected, axis=0))


def test_no_deviation_where_all_videos_are_drawn():
    train, labels, test, truth = _problem()
    kept = np.concatenate([np.flatnonzero(labels == label)[:8] for label in (0, 1, 4)])
    found = score((train[kept], labels[kept], test, truth), shots=8, draws=4)
    assert found.std == 0 and 0.5 < found.mean <= 1
    assert score(_problem(), shots=1, draws=20).std > 0


def test_draws():
    _, labels, _, _ = _problem()
    draws = [few_shot.draw_rows(labels, shots=2, draw=i, seed=0) for i in range(300)]
    more = few_shot.draw_rows(labels, shots=5, draw=7, seed=0)
    np.testing.assert_array_equal(more[:, :2], draws[7])  # nested, and the same again
    assert (few_shot.draw_rows(labels, shots=2, draw=0, seed=1) != draws[0]).any()
    # Every video of a class as often as another: 300 draws of 2 of 8 are 75 each.
    counts = np.bincount(np.concatenate([draw[0] for draw in draws]), minlength=29)[labels == 0]
    assert counts.sum() == 600 and counts.min() > 45 and counts.max() < 105


def test_scale_does_not_matter_and_refusals():
    train, labels, test, truth = problem = _problem()
    scale = np.random.default_rng(9).uniform(0.1, 9, size=(29, 1))
    assert score((train * scale, labels, test * 5, truth), shots=3) == score(problem, shots=3)
    with pytest.raises(ValueError, match="9 shots of classes with 8 rows"):
        score(problem, shots=9)
    with pytest.raises(ValueError, match="1 draws"):
        score(problem, shots=1, draws=1)
    assert few_shot.rarest_class(labels) == (0, 8)
