"""Are the losses those of the equations? A slow oracle, closed forms, and invariances."""

import numpy as np
import pytest
import tensorflow as tf

from tce_tf.modeling import losses, mining

# Mined ones among 12 negatives.
NUM_HARD = {"random": 0, "mixed": 5, "hard": 12}


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_nce(anchor, positive, bank, negatives, z, temperature):
    """Equation by equation, one score at a time."""
    batch, num_negatives = negatives.shape
    num_videos, total = len(bank), 0.0
    noise = num_negatives * (1 / num_videos)
    for b in range(batch):
        h = np.exp(anchor[b] @ positive[b] / temperature) / z
        total += np.log(h / (h + noise + 1e-7))
        for row in negatives[b]:
            h = np.exp(anchor[b] @ bank[row] / temperature) / z
            total += np.log(noise / (h + noise + 1e-7))
    return -total / batch


def slow_gradient(function, x, step=1e-6):
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (function(above) - function(below)) / (2 * step)
    return gradient


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("regime", NUM_HARD)
def test_similarity_matrix_form_equals_the_slow_form(regime, jit):
    rng = np.random.default_rng(0)
    anchor, positive, bank = unit(rng, 3, 8), unit(rng, 3, 8), unit(rng, 20, 8)
    negatives, mined = mining.mine_hard_negatives(
        tf.constant(anchor @ bank.T),
        tf.range(3),
        tf.ones(20, tf.bool),
        tf.constant(rng.integers(3, 20, (3, 12)), tf.int32),  # with repetitions
        tf.constant(1.0, tf.float64),
        NUM_HARD[regime],
    )
    assert mined.numpy().tolist() == [NUM_HARD[regime]] * 3
    negatives = negatives.numpy()
    z, temperature = 37.0, 0.07

    @tf.function(jit_compile=jit)
    def fast(anchor, positive):
        with tf.GradientTape() as tape:
            tape.watch([anchor, positive])
            similarity = tf.matmul(anchor, tf.constant(bank), transpose_b=True)
            scores = losses.contrastive_scores(anchor, positive, similarity, tf.constant(negatives))
            loss = losses.nce_loss(scores, tf.constant(z, tf.float64), 20, temperature)
        return loss, *tape.gradient(loss, [anchor, positive])

    loss, grad_anchor, grad_positive = fast(tf.constant(anchor), tf.constant(positive))
    slow = lambda a, p: slow_nce(a, p, bank, negatives, z, temperature)  # noqa: E731
    assert float(loss) == pytest.approx(slow(anchor, positive), rel=1e-10)
    np.testing.assert_allclose(grad_anchor, slow_gradient(lambda a: slow(a, positive), anchor),
                               rtol=1e-5, atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(grad_positive, slow_gradient(lambda p: slow(anchor, p), positive),
                               rtol=1e-5, atol=1e-6)  # fmt: skip


def test_info_nce_of_equal_scores_is_the_log_of_their_number():
    scores = tf.fill([4, 1 + 9], 0.3)
    assert float(losses.info_nce_loss(scores, 0.07)) == pytest.approx(np.log(10), rel=1e-6)


def test_losses_ignore_the_order_of_the_negatives():
    rng = np.random.default_rng(1)
    scores = rng.uniform(-1, 1, (4, 9))
    shuffled = np.concatenate([scores[:, :1], scores[:, :0:-1]], axis=1)
    for loss in (
        lambda s: losses.nce_loss(tf.constant(s), tf.constant(50.0, tf.float64), 30, 0.07),
        lambda s: losses.info_nce_loss(tf.constant(s), 0.07),
    ):
        assert float(loss(scores)) == pytest.approx(float(loss(shuffled)), rel=1e-12)


def test_a_better_positive_and_worse_negatives_lower_the_loss():
    scores = np.array([[0.5, 0.1, 0.2]])
    for loss in (
        lambda s: float(losses.nce_loss(tf.constant(s), tf.constant(900.0, tf.float64), 30, 0.07)),
        lambda s: float(losses.info_nce_loss(tf.constant(s), 0.07)),
    ):
        assert loss(scores + [[0.1, 0, 0]]) < loss(scores) < loss(scores + [[0, 0, 0.3]])


def test_rotation_loss_of_no_opinion_is_log_4():
    loss = losses.rotation_loss(tf.zeros([5, 4]), tf.constant([0, 1, 2, 3, 0]))
    assert float(loss) == pytest.approx(np.log(4), rel=1e-6)


def test_scores_on_gpus_have_the_same_values_and_gradients(monkeypatch):
    """There the gather's own gradient is used; rows that come twice add up in both."""
    rng = np.random.default_rng(5)
    anchor, positive = unit(rng, 4, 8), unit(rng, 4, 8)
    similarity = tf.constant(rng.uniform(-1, 1, (4, 20)))
    negatives = rng.integers(0, 20, (4, 30))
    weights = tf.constant(rng.standard_normal((4, 31)))
    found = []
    for gpus in ([], ["GPU:0"]):
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind, gpus=gpus: gpus)
        with tf.GradientTape() as tape:
            tape.watch(similarity)
            scores = losses.contrastive_scores(anchor, positive, similarity, negatives)
            total = tf.reduce_sum(weights * scores)
        found.append((scores, tape.gradient(total, similarity)))
    for cpu, gpu in zip(*found, strict=True):
        np.testing.assert_allclose(cpu, tf.convert_to_tensor(gpu), rtol=1e-12)
