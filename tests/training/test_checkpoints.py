"""Does a checkpoint bring back everything, and say so when it cannot?"""

import numpy as np
import pytest
import tensorflow as tf

from tce_tf import compat, errors
from tce_tf.modeling import tce_model
from tce_tf.training import checkpoints, optimizers, schedules


def make_model(seed, width=16):
    objective = tce_model.Objective(num_negatives=3)
    model = tce_model.TCEModel(
        "resnet18", num_videos=6, embedding_width=width, objective=objective, seed=seed
    )
    model.initialize(32)
    optimizer = optimizers.SGD(schedules.Schedule(0.01))
    optimizer.build(model.optimized_weights)
    model.compile(optimizer=optimizer)
    return model


def state(model):
    weights = [*model.weights, *model.optimizer.variables]
    if not compat.KERAS_3 and callable(model.optimizer.variables):
        weights = [*model.weights, *model.optimizer.variables()]
    return [np.asarray(compat.tf_variable(w)) for w in weights]


def test_everything_comes_back(tmp_path):
    model = make_model(0)
    rng = np.random.default_rng(0)
    views = {
        name: rng.standard_normal((4, 32, 32, 3)).astype(np.float32)
        for name in ("anchor", "positive", "rotated")
    }
    model.train_step(views | {"rotation_label": np.arange(4), "video_index": np.arange(4)})
    checkpoints.Checkpoints(str(tmp_path), model, model.optimizer).save(7)

    other = make_model(1)
    assert any((a != b).any() for a, b in zip(state(model), state(other), strict=True))
    assert checkpoints.Checkpoints(str(tmp_path), other, other.optimizer).restore() == 7
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)

    # By name, not by way of the optimizer: batch-norm statistics of a deep block too.
    saved = [name for name, _ in tf.train.list_variables(checkpoints.latest(str(tmp_path)))]
    assert any("backbone/layer4_1/bn2/moving_variance" in name for name in saved), saved[:20]


def test_nothing_to_restore(tmp_path):
    model = make_model(0)
    assert checkpoints.Checkpoints(str(tmp_path), model, model.optimizer).restore() is None


def test_other_model_is_refused(tmp_path):
    model = make_model(0)
    checkpoints.Checkpoints(str(tmp_path), model, model.optimizer).save(1)
    other = make_model(0, width=8)
    with pytest.raises(errors.UserError, match="does not fit|cannot be read"):
        checkpoints.Checkpoints(str(tmp_path), other, other.optimizer).restore()


def test_only_the_newest_stay(tmp_path):
    model = make_model(0)
    store = checkpoints.Checkpoints(str(tmp_path), model, model.optimizer, keep=2)
    for step in (1, 2, 3):
        store.save(step)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*.index")) == [
        "ckpt-2.index",
        "ckpt-3.index",
    ]


def test_a_truncated_checkpoint_is_named_and_the_one_before_can_be_used(tmp_path):
    model = make_model(0)
    store = checkpoints.Checkpoints(str(tmp_path), model, model.optimizer)
    store.save(1)
    store.save(2)
    (data,) = (tmp_path / "checkpoints").glob("ckpt-2.data*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(errors.UserError, match="ckpt-2 cannot be read.* remove .*ckpt-2"):
        checkpoints.Checkpoints(str(tmp_path), model, model.optimizer).restore()
    for path in (tmp_path / "checkpoints").glob("ckpt-2.*"):
        path.unlink()
    assert checkpoints.Checkpoints(str(tmp_path), model, model.optimizer).restore() == 1
