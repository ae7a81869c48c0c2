"""Is the linear probe scikit-learn's with an honest choice of regularisation? Groups stay together."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import optimize
from sklearn import linear_model, preprocessing

from tce_tf import errors
from tce_tf.evaluation import linear_probe


def _problem(seed=0, num_classes=4, noise=1.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, 5))
    labels, truth = rng.integers(0, num_classes, 80), rng.integers(0, num_classes, 50)
    scale = np.array([1e-3, 1, 10, 1e3, 1]) * np.array([1, -1, 1, 1, 1])
    train = (centres[labels] + noise * rng.normal(size=(80, 5))) * scale + 100
    test = (centres[truth] + noise * rng.normal(size=(50, 5))) * scale + 100
    return train, labels, test, truth


def test_equals_scikit_learn_with_the_chosen_decay():
    train, labels, test, truth = _problem()
    probe = linear_probe.fit_linear_probe(train, labels)
    assert probe.solver == "lbfgs" and probe.decay in linear_probe.DECAYS
    scaler = preprocessing.StandardScaler().fit(train)
    model = linear_model.LogisticRegression(C=1 / (probe.decay * 80), max_iter=1000)
    model.fit(scaler.transform(train), labels)
    ranking = probe.rank_classes(test)
    probabilities = model.predict_proba(scaler.transform(test))
    np.testing.assert_array_equal(ranking, np.argsort(-probabilities, axis=1))
    assert np.mean(ranking[:, 0] == truth) == pytest.approx(
        model.score(scaler.transform(test), truth)
    )
    assert np.mean(ranking[:, 0] == truth) > 0.5


def test_decay_weighs_the_mean_loss():
    """The weights minimise mean cross-entropy + decay |w|^2 / 2, by another optimiser as well."""
    train, labels, _, _ = _problem()
    rows = preprocessing.StandardScaler().fit_transform(train)
    model = linear_probe._fit(train, labels, "lbfgs", 0.1, 0)

    def objective(flat):
        weights, bias = flat[:20].reshape(4, 5), flat[20:]
        logits = rows @ weights.T + bias
        top = logits.max(axis=1)
        entropy = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        entropy -= logits[np.arange(80), labels]
        return entropy.mean() + 0.05 * np.sum(weights**2)

    best = optimize.minimize(objective, np.zeros(24), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(model[-1].coef_, best.x[:20].reshape(4, 5), atol=2e-3)


def test_the_scale_of_features_does_not_matter():
    train, labels, test, _ = _problem(1)
    a = linear_probe.fit_linear_probe(train, labels)
    b = linear_probe.fit_linear_probe(train * 1e4 - 7, labels)
    assert a.decay == b.decay
    np.testing.assert_array_equal(a.rank_classes(test), b.rank_classes(test * 1e4 - 7))


def test_regularisation_is_chosen_on_held_out_groups():
    """Near-copies inside groups reward memory: held out by video the weakest decay looks best."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 6)
    scene = rng.normal(size=(30, 40))
    labels = (scene[:, 0] + rng.normal(size=30) > 0).astype(int)[groups]
    features = scene[groups] + 0.01 * rng.normal(size=(180, 40))
    named = [f"g{g:02d}" for g in groups]
    by_group = linear_probe.fit_linear_probe(features, labels, groups=named)
    by_video = linear_probe.fit_linear_probe(features, labels)
    assert by_video.held_out_top1 == 1.0
    assert by_group.held_out_top1 < 0.9
    assert by_group.decay > by_video.decay


def test_held_out_part():
    labels = np.repeat([0, 1, 2], [20, 10, 3])
    groups = [f"g{i // 2}" for i in range(20)] + [f"h{i // 2}" for i in range(10)] + ["one"] * 3
    held_out = linear_probe.choose_held_out(labels, groups, seed=0)
    assert [int(held_out[labels == c].sum()) for c in (0, 1, 2)] == [4, 2, 0]
    for name in set(groups):
        members = [held_out[i] for i, g in enumerate(groups) if g == name]
        assert len(set(members)) == 1, name
    other = [linear_probe.choose_held_out(labels, groups, seed=s) for s in range(5)]
    np.testing.assert_array_equal(other[0], held_out)
    assert any((x != held_out).any() for x in other)
    alone = linear_probe.choose_held_out(labels, [None] * 33, seed=0)
    assert [int(alone[labels == c].sum()) for c in (0, 1, 2)] == [4, 2, 1]


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=40),
    st.integers(0, 20),
)
def test_scenes_that_show_several_classes_leave_some_of_each(videos, seed):
    labels = np.array([label for label, _ in videos])
    groups = [f"scene {scene}" for _, scene in videos]
    held_out = linear_probe.choose_held_out(labels, groups, seed=seed)
    assert set(labels[~held_out]) == set(labels)
    for scene in set(groups):
        assert len({held_out[i] for i, g in enumerate(groups) if g == scene}) == 1
    alone = {
        c
        for c in set(labels)
        if len({g for g, label in zip(groups, labels, strict=True) if label == c}) > 1
    }
    shared = {
        g
        for g in groups
        if len({label for h, label in zip(groups, labels, strict=True) if h == g}) > 1
    }
    if not shared:
        assert {c for c in labels[held_out]} == alone


def test_of_many_shared_scenes_about_a_fifth_is_held_out():
    rng = np.random.default_rng(0)
    scenes = np.concatenate([rng.choice(12, 4, replace=False) for _ in range(20)])
    labels, groups = np.repeat(np.arange(20), 4), [f"g{scene}" for scene in scenes]
    shares = [linear_probe.choose_held_out(labels, groups, seed=s).mean() for s in range(20)]
    # One group of four is a quarter; a class that meets a group of another's choice needs no own.
    assert 0.2 < np.mean(shares) < 0.45


def test_sgd_agrees_with_the_exact_solver_on_easy_classes():
    train, labels, test, truth = _problem(noise=0.2)
    exact = linear_probe.fit_linear_probe(train, labels)
    steps = linear_probe.fit_linear_probe(train, labels, solver="sgd", seed=1)
    assert steps.solver == "sgd"
    for probe in (exact, steps):
        assert np.mean(probe.rank_classes(test)[:, 0] == truth) >= 0.95
    again = linear_probe.fit_linear_probe(train, labels, solver="sgd", seed=1)
    np.testing.assert_array_equal(again.rank_classes(test), steps.rank_classes(test))


def test_auto_takes_sgd_for_very_many_videos(monkeypatch):
    monkeypatch.setattr(linear_probe, "_SGD_ROWS", 79)
    train, labels, _, _ = _problem(noise=0.2)
    assert linear_probe.fit_linear_probe(train, labels).solver == "sgd"


def test_two_classes_and_labels_with_gaps():
    train, labels, test, truth = _problem(num_classes=2, noise=0.3)
    probe = linear_probe.fit_linear_probe(train, 5 * labels + 2)
    ranking = probe.rank_classes(test)
    assert set(map(tuple, ranking)) == {(2, 7), (7, 2)}
    assert np.mean(ranking[:, 0] == 5 * truth + 2) > 0.9


def test_what_cannot_be_fitted_is_refused(caplog, monkeypatch):
    with pytest.raises(errors.UserError, match="needs two classes"):
        linear_probe.fit_linear_probe(np.ones((5, 2)), np.zeros(5, int))
    with pytest.raises(errors.UserError, match="to hold some videos out"):
        linear_probe.fit_linear_probe(
            np.ones((4, 2)), np.array([0, 0, 1, 1]), groups=["a", "a", "b", "b"]
        )
    few_steps = linear_model.LogisticRegression
    monkeypatch.setattr(
        linear_model, "LogisticRegression", lambda C, max_iter: few_steps(C=C, max_iter=2)
    )
    with caplog.at_level("WARNING", logger="absl"):
        linear_probe.fit_linear_probe(*_problem()[:2])
    assert "stopped before it converged" in caplog.text
