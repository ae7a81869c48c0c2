"""Does the plane hold what was asked? Variance against a closed form, one seed one picture, few rows."""

import numpy as np
import pytest

from tce_tf.visualization import projection


def axes_of(variances, rows=64):
    """float64 [rows, F] whose principal components are the axes, with these exact variances."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(rows, len(variances) + 1)))[0]
    # The first column is made constant, so that the others are centred; they stay orthonormal.
    centred = np.linalg.qr(np.hstack([np.ones((rows, 1)), basis[:, 1:]]))[0][:, 1:]
    return centred * np.sqrt(np.array(variances) * rows)


# Shares of the variance 0.5, 0.3, 0.1, 0.06, 0.04: their running sums 0.5, 0.8, 0.9, 0.96, 1.
@pytest.mark.parametrize(
    ("asked", "components"),
    [(0.4, 1), (0.6, 2), (0.79, 2), (0.81, 3), (0.89, 3), (0.95, 4), (0.97, 5), (1.0, 5)],
)
def test_fewest_components_that_hold_the_variance(asked, components):
    data = 7 + axes_of([5.0, 3.0, 1.0, 0.6, 0.4])
    kept = projection.keep_variance(data, asked)
    assert kept.shape == (64, components) and kept.dtype == np.float32
    share = kept.astype(np.float64).var(axis=0).sum() / data.var(axis=0).sum()
    np.testing.assert_allclose(share, np.cumsum([0.5, 0.3, 0.1, 0.06, 0.04])[components - 1])
    assert share >= asked - 1e-6


def test_many_rows_of_many_columns_keep_it_too():
    """Where scikit-learn would take its randomised solver for a number of components."""
    data = np.random.default_rng(0).normal(size=(520, 60)).astype(np.float32)
    data *= np.linspace(1, 0.05, 60, dtype=np.float32)
    kept = projection.keep_variance(data, 0.95)
    values = np.linalg.eigvalsh(np.cov(data.T.astype(np.float64)))[::-1]
    shares = np.cumsum(values) / values.sum()
    assert kept.shape[1] == np.argmax(shares >= 0.95) + 1


def test_one_seed_one_picture_whatever_the_cores():
    data = np.random.default_rng(1).normal(size=(150, 12)).astype(np.float32)
    first, second = projection.project(data, seed=3), projection.project(data, seed=3)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32 and first.shape == (150, 2)


def test_groups_stay_together_and_a_path_stays_a_path():
    rng = np.random.default_rng(0)
    centres = np.eye(3).repeat(40, axis=0) @ rng.normal(size=(3, 20)) * 8
    places = projection.project(centres + rng.normal(size=centres.shape))
    group = np.arange(120) // 40
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(axis=1)] == group).all()

    turn = np.linspace(0, np.pi, 80)
    arc = np.stack([np.cos(turn), np.sin(turn)], axis=1) @ rng.normal(size=(2, 20))
    places = projection.project(arc)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    others = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert steps.max() < 0.2 * others.max()


def test_the_principal_plane_keeps_distances():
    """Vectors that lie in a plane of 20 dimensions, far from the origin, and one step off it."""
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 2)) * (3, 1)
    basis = np.linalg.qr(rng.normal(size=(20, 3)))[0].T
    places = projection.principal_plane(flat @ basis[:2] + 5 * basis[2])
    assert places.dtype == np.float32
    between = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (flat, places)]
    np.testing.assert_allclose(between[1], between[0], atol=1e-4)
    wide = axes_of([5.0, 3.0, 1.0])
    variances = projection.principal_plane(wide).astype(np.float64).var(axis=0)
    np.testing.assert_allclose(variances, [5, 3], rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 20])
def test_few_rows(rows):
    data = np.random.default_rng(0).normal(size=(rows, 6)).astype(np.float32)
    places = projection.project(data)
    assert places.shape == (rows, 2) and np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == rows
    if rows < 4:  # exact: the plane through them
        for i in range(rows):
            for j in range(i):
                wanted = np.linalg.norm(data[i] - data[j])
                kept = projection.project(data, variance=1.0)
                np.testing.assert_allclose(np.linalg.norm(kept[i] - kept[j]), wanted, rtol=1e-4)


def test_equal_vectors_and_a_line():
    assert not projection.project(np.full((9, 4), 0.3)).any()
    assert not projection.principal_plane(np.full((9, 4), 0.3)).any()
    np.testing.assert_array_equal(projection.principal_plane([[1.0, 2.0]]), [[0, 0]])
    line = np.outer(np.arange(30), np.ones(4))
    assert np.isfinite(projection.project(line)).all()


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros(3), np.full((5, 2), np.nan)])
def test_what_cannot_be_placed_is_refused(bad):
    with pytest.raises(ValueError, match="vectors must be finite"):
        projection.project(bad)
