"""Are the coherence figures what they say? Loops over pairs, closed forms, invariances."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from tce_tf.evaluation import coherence


def _runs(seed=0, lengths=(9, 5, 12, 1), width=7):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, width)) + 0.5 for length in lengths]


def _unit(run):
    return run / np.linalg.norm(run, axis=1, keepdims=True)


def _angle(a, b):
    return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


def test_equals_loops_over_pairs():
    runs = _runs()
    found = coherence.coherence_figures(runs)
    units = [_unit(run) for run in runs]
    assert [name for name in found if name.startswith("cosine_at")] == [
        "cosine_at.1", "cosine_at.2", "cosine_at.4", "cosine_at.8"
    ]  # fmt: skip
    for d in (1, 2, 4, 8):
        per_video = [
            np.mean([run[t] @ run[t + d] for t in range(len(run) - d)])
            for run in units
            if len(run) > d
        ]
        assert found[f"cosine_at.{d}"] == pytest.approx(np.mean(per_video), abs=1e-6)
    assert found["neighbour_cosine"] == found["cosine_at.1"]
    others = [
        np.mean([x @ y for x in units[i] for y in units[j]])
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    assert found["other_cosine"] == pytest.approx(np.mean(others), abs=1e-6)
    squared = [
        np.mean([np.sum((run[t] - run[t + 1]) ** 2) for t in range(len(run) - 1)])
        for run in units[:3]
    ]
    assert found["alignment"] == pytest.approx(np.mean(squared), abs=1e-6)
    middle = np.stack([run[len(run) // 2] for run in units])
    expected = np.log(np.mean(np.exp(-2 * distance.pdist(middle, "sqeuclidean"))))
    assert found["uniformity"] == pytest.approx(expected, abs=1e-6)
    values = np.linalg.svd(np.concatenate(units), compute_uv=False)
    assert found["effective_rank"] == pytest.approx(
        np.exp(stats.entropy(values / values.sum())), rel=1e-5
    )
    assert found["relative_step"] == pytest.approx(
        found["alignment"] / (2 - 2 * np.mean(others)), rel=1e-5
    )
    angles = [
        np.mean([_angle(run[t + 1] - run[t], run[t + 2] - run[t + 1]) for t in range(len(run) - 2)])
        for run in units[:3]
    ]
    assert found["curvature"] == pytest.approx(np.mean(angles), abs=1e-5)
    assert found["order_tau"] == pytest.approx(
        np.mean([coherence.order_consistency(run) for run in units[:3]]), abs=1e-6
    )


def test_order_by_a_greedy_walk_and_scipy():
    run = _unit(_runs(3, (10,))[0])
    walk, left = [0], set(range(1, 10))
    while left:
        walk.append(max(sorted(left), key=lambda t: run[walk[-1]] @ run[t]))
        left.remove(walk[-1])
    pairs = [(i, j) for i in range(1, 10) for j in range(i + 1, 10)]
    agree = sum(1 if walk[i] < walk[j] else -1 for i, j in pairs)
    tau = coherence.order_consistency(run)
    assert tau == pytest.approx(agree / len(pairs))
    assert tau == pytest.approx(stats.kendalltau(range(1, 10), walk[1:]).statistic)


def test_closed_forms():
    # An arc of one degree a frame: order is perfect, cosines are known.
    at = np.radians(np.arange(20.0))
    arc = np.stack([np.cos(at), np.sin(at), 0 * at], axis=1)
    away = np.tile([0.0, 0.0, 1.0], (20, 1))
    found = coherence.coherence_figures([3 * arc, away])
    assert found["cosine_at.16"] == pytest.approx((np.cos(np.radians(16)) + 1) / 2, abs=1e-6)
    assert found["alignment"] == pytest.approx(1 - np.cos(np.radians(1)), abs=1e-6)
    assert found["other_cosine"] == pytest.approx(0, abs=1e-7)
    assert found["uniformity"] == pytest.approx(-4, abs=1e-6)  # one pair at squared distance 2
    assert coherence.order_consistency(arc) == 1
    # The arc without its first frame backwards, in time order: 0, 19, 18, ..., 1.
    back = np.concatenate([arc[:1], arc[:0:-1]])
    assert coherence.order_consistency(back) == -1


def test_no_order_in_noise_and_none_in_a_constant():
    rng = np.random.default_rng(0)
    taus = [coherence.order_consistency(_unit(rng.normal(size=(12, 30)))) for _ in range(400)]
    assert abs(np.mean(taus)) < 0.04  # standard error 0.01
    # A collapsed encoder must not look ordered: ties are walked both ways.
    assert coherence.order_consistency(np.ones((6, 1))) == 0


def test_collapse_and_spread():
    same = [np.ones((5, 4))] * 3
    found = coherence.coherence_figures(same)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert found["uniformity"] == pytest.approx(0, abs=1e-6)
    assert found["neighbour_cosine"] == found["other_cosine"] == pytest.approx(1, abs=1e-6)
    assert coherence.effective_rank(np.repeat(np.eye(6), 3, axis=0)) == pytest.approx(6)
    assert coherence.effective_rank(np.zeros((3, 2))) == 0


def test_curvature_in_closed_form():
    # On an arc of one degree a frame each step turns by one degree; on a great circle there and back by
    # 180 degrees once; a frame stored twice is no step.
    at = np.radians(np.arange(20.0))
    arc = np.stack([np.cos(at), np.sin(at), 0 * at], axis=1)
    assert coherence.curvature(arc) == pytest.approx(1, abs=1e-6)
    assert coherence.curvature(np.repeat(arc, 2, axis=0)) == pytest.approx(1, abs=1e-6)
    assert coherence.curvature(np.concatenate([arc[:3], arc[1::-1]])) == pytest.approx(182 / 3)
    assert coherence.curvature(arc[:2]) is None
    assert coherence.curvature(np.repeat(arc[:2], 9, axis=0)) is None
    # Independent noise: steps e2 - e1 and e3 - e2 have cosine -1/2. A random walk: none.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4000, 200))
    assert coherence.curvature(noise) == pytest.approx(120, abs=0.5)
    assert coherence.curvature(np.cumsum(noise, axis=0)) == pytest.approx(90, abs=0.5)


def test_rotation_and_scale_do_not_matter():
    runs = _runs(1)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(7, 7)))[0]
    moved = [scale * run @ turn for scale, run in zip((0.1, 1, 5, 40), runs, strict=True)]
    expected = coherence.coherence_figures(runs)
    assert coherence.coherence_figures(moved[::-1]) == pytest.approx(expected, abs=1e-5)


def test_short_and_bad_input():
    of_others = {"other_cosine", "uniformity", "effective_rank"}
    of_pairs = {"neighbour_cosine", "alignment", "cosine_at.1", "effective_rank"}
    assert set(coherence.coherence_figures(_runs(0, (1, 1)))) == of_others
    assert set(coherence.coherence_figures(_runs(0, (2,)))) == of_pairs
    found = set(coherence.coherence_figures(_runs(0, (3, 2))))
    assert found == of_others | of_pairs | {"cosine_at.2", "curvature", "relative_step"}
    with pytest.raises(ValueError, match="at least one video"):
        coherence.coherence_figures([])
    with pytest.raises(ValueError, match="NaN"):
        coherence.coherence_figures([np.full((3, 2), np.nan), np.ones((3, 2))])
