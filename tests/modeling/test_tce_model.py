"""Does a training step do the same however it is run? Compilation, `fit`, precision."""

import numpy as np
import pytest
import replica_steps
import tensorflow as tf

from tce_tf import compat
from tce_tf.modeling import tce_model
from tce_tf.training import optimizers, schedules, strategies

SIZE, BATCH, VIDEOS = 32, 8, 24


def make_model(objective=None, learning_rate=0.01, loss_scale=None, **kwargs):
    model = tce_model.TCEModel(
        "tiny",  # registered by replica_steps: two blocks
        num_videos=VIDEOS,
        embedding_width=16,
        objective=objective or tce_model.Objective(num_negatives=6, total_steps=10),
        **kwargs,
    )
    model.initialize(SIZE)
    optimizer = optimizers.SGD(schedules.Schedule(learning_rate), coupled_weight_decay=1e-4)
    if loss_scale:
        optimizer = compat.LossScaleOptimizer(optimizer, initial_scale=loss_scale)
    optimizer.build(model.optimized_weights)
    model.compile(optimizer=optimizer)
    return model


def views(step=0):
    rng = np.random.default_rng(step)
    batch = {
        name: rng.standard_normal((BATCH, SIZE, SIZE, 3)).astype(np.float32)
        for name in ("anchor", "positive", "rotated")
    }
    rows = rng.permutation(VIDEOS)[:BATCH]
    labels = rng.integers(0, 4, BATCH).astype(np.int32)
    return batch | {"rotation_label": labels, "video_index": rows}


def weights_of(model):
    return [np.asarray(compat.tf_variable(w)) for w in model.weights]


def test_eager_equals_graph():
    eager, graph = make_model(jit=False), make_model()
    first = eager.train_step(views())
    second = tf.function(graph.train_step)(views())
    for name, value in first.items():
        assert float(second[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    for a, b in zip(weights_of(eager), weights_of(graph), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)  # Z is 1e6 here


def test_bank_takes_the_anchor_embeddings_of_the_step():
    model = make_model()
    batch = views()
    before = model.bank.lookup().numpy()
    negatives = []
    choose = model.contrast.choose_negatives

    def spy(similarity, video_index, step, part):
        negatives.append(similarity.numpy())
        return choose(similarity, video_index, step, part)

    model.contrast.choose_negatives = spy
    model.train_step(batch)
    after = model.bank.lookup().numpy()
    rows = batch["video_index"]
    # The embeddings that were scored against the old bank are the ones now in it.
    np.testing.assert_allclose(after[rows] @ before.T, negatives[0], atol=1e-5)
    others = np.setdiff1d(np.arange(VIDEOS), rows)
    np.testing.assert_array_equal(after[others], before[others])


def test_the_step_mines_what_the_oracle_counts():
    """Fewer rows qualify than wanted, more than the cap, or none; dead rows and the own never."""
    live_rows = np.arange(0, VIDEOS, 2)
    video_index, num_negatives = np.array([2, 8, 22, 0]), 11
    similarity = np.random.default_rng(4).uniform(-1, 1, (4, VIDEOS)).astype(np.float32)
    similarity[3] = 0.999  # nothing qualifies before the very end
    for max_hard_fraction, rate in ((1.0, 5.0), (0.5, 5.0), (0.25, 1.0), (0.0, 5.0)):
        objective = tce_model.Objective(
            num_negatives=num_negatives,
            mining_rate=rate,
            max_hard_fraction=max_hard_fraction,
            total_steps=40,
        )
        model = tce_model.TCEModel(
            num_videos=VIDEOS, embedding_width=4, objective=objective, live_rows=live_rows
        )
        for step in (0, 1, 5, 20, 39):
            threshold = 1 - 2 * np.exp(-rate * step / 40)
            chosen, mined = model.contrast.choose_negatives(
                tf.constant(similarity), tf.constant(video_index), tf.constant(step)
            )
            assert chosen.shape == (4, num_negatives)
            for b, own in enumerate(video_index):
                others = np.setdiff1d(live_rows, own)
                eligible = others[similarity[b, others] < threshold]
                hardest = eligible[np.argsort(-similarity[b, eligible])]
                wanted = min(len(eligible), int(max_hard_fraction * num_negatives))
                assert mined[b] == wanted
                assert set(chosen[b, :wanted].numpy()) == set(hardest[:wanted])
                assert np.isin(chosen[b], others).all()


def test_random_negatives_follow_seed_and_step():
    def drawn(seed, step):
        objective = tce_model.Objective(num_negatives=20, mining=False, seed=seed)
        model = tce_model.TCEModel(num_videos=VIDEOS, embedding_width=4, objective=objective)
        similarity, rows = tf.zeros([3, VIDEOS]), tf.range(3)
        chosen, mined = model.contrast.choose_negatives(similarity, rows, tf.constant(step))
        assert mined.numpy().tolist() == [0, 0, 0]
        return chosen.numpy()

    first = drawn(0, 0)
    np.testing.assert_array_equal(first, drawn(0, 0))
    for other in (drawn(0, 1), drawn(1, 0), drawn(1, 1)):
        assert np.mean(first == other) < 0.3  # 1 in 23 by chance


def test_logged_mined_fraction_is_that_of_the_batch():
    # A threshold of 0 from the start: about half of the rows qualify.
    objective = tce_model.Objective(num_negatives=16, mining_low=0.0, mining_rate=0.0)
    model = make_model(objective, live_rows=np.arange(1, VIDEOS))
    batch = views() | {"video_index": np.arange(1, 1 + BATCH)}
    scores = model(batch["anchor"], training=True)["embeddings"] @ tf.transpose(model.bank.lookup())
    qualifies = (scores.numpy() < 0) & (np.arange(VIDEOS) > 0)
    qualifies[np.arange(BATCH), batch["video_index"]] = False
    expected = np.minimum(qualifies.sum(axis=1), 16).mean() / 16
    assert 0.3 < expected < 1
    logs = tf.function(model.train_step)(batch)
    assert float(logs["hard_negative_fraction"]) == pytest.approx(expected, abs=1e-6)


def test_normalizer_is_kept_or_averaged():
    values = {}
    for momentum in (1.0, 0.5):
        objective = tce_model.Objective(num_negatives=6, total_steps=10, z_momentum=momentum)
        model = make_model(objective, learning_rate=1e-9)
        values[momentum] = []
        for step in range(2):
            model.train_step(views(step))
            values[momentum].append(float(compat.tf_variable(model.normalizer)))
    assert values[1.0][0] == values[1.0][1] == pytest.approx(values[0.5][0], rel=1e-5)
    assert values[0.5][1] != pytest.approx(values[0.5][0], rel=1e-3)


def test_fit_runs_the_step_and_learns():
    model = make_model(tce_model.Objective(num_negatives=6, total_steps=20, loss="infonce"))
    data = tf.data.Dataset.from_tensors(views()).repeat(12)
    history = model.fit(data, epochs=1, verbose=0)
    assert "nce_loss" in history.history
    first, last = (float(model.train_step(views())[name]) for name in ("loss", "loss"))
    assert last < 3.0 and int(model.optimizer.iterations) == 14, (first, last)


def test_rotation_weight_zero_leaves_the_head_alone():
    model = make_model(tce_model.Objective(num_negatives=6, rotation_weight=0.0))
    before = [np.asarray(compat.tf_variable(w)).copy() for w in model.rotation.weights]
    logs = model.train_step(views())
    for old, new in zip(before, model.rotation.weights, strict=True):
        np.testing.assert_array_equal(old, np.asarray(compat.tf_variable(new)))
    assert float(logs["loss"]) == float(logs["nce_loss"])


def test_mixed_precision_keeps_loss_and_bank_wide():
    model = make_model(dtype="mixed_bfloat16")
    outputs = model(tf.zeros([2, SIZE, SIZE, 3]))
    assert outputs["features"].dtype == tf.bfloat16
    assert outputs["embeddings"].dtype == tf.float32
    assert model.bank.lookup().dtype == tf.float32
    assert np.isfinite(float(model.train_step(views())["loss"]))


def test_float16_takes_the_step_of_float32():
    """The loss is scaled, the gradients unscaled. Keras's first scale, 2^15, overflows here."""
    moves = []
    for options in ({}, {"dtype": "mixed_float16", "loss_scale": 16}):
        model = make_model(**options)
        weights = [compat.tf_variable(weight) for weight in model.optimized_weights]
        before = [weight.numpy() for weight in weights]
        model.train_step(views())
        changes = [a.numpy() - b for a, b in zip(weights, before, strict=True)]
        moves.append(np.concatenate([change.ravel() for change in changes]))
    exact, rough = moves
    # Measured: 0.21, whatever the scale; unscaled gradients would be 16 times too large.
    assert np.linalg.norm(rough - exact) < 0.4 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("devices", "loss_scale"),
    [("one_device", 16.0), ("one_device", 2.0**100), ("mirrored", 2.0**100)],
)
def test_a_step_skipped_for_an_overflow_is_counted(devices, loss_scale):
    """Rate, threshold and draws go by `iterations`, which must be the number of steps done."""
    made = replica_steps.train(
        strategies.make_strategy(devices), dtype="mixed_float16", loss_scale=loss_scale
    )
    assert made["steps"] == replica_steps.STEPS
    moved = made["weights"][0] != made["start"]
    assert moved.mean() > 0.9 if loss_scale == 16 else not moved.any()


def test_too_many_negatives_are_refused():
    with pytest.raises(ValueError, match="24 negatives need at least 25 videos, there are 24"):
        make_model(tce_model.Objective(num_negatives=24))
    with pytest.raises(ValueError, match="5 negatives need at least 6 videos, there are 5"):
        tce_model.TCEModel(
            num_videos=VIDEOS,
            live_rows=range(5),
            objective=tce_model.Objective(num_negatives=5),
        )
