"""Does a checkpoint bring back everything, and say so when it cannot?"""

import numpy as np
import pytest
import replica_steps
import tensorflow as tf

from tce_tf import compat, errors
from tce_tf.data import storage
from tce_tf.modeling import checkpoint_files, tce_model
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
    variables = model.optimizer.variables
    variables = variables() if callable(variables) else variables  # a method of 2.15's
    weights = [*model.weights, *variables]
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
    saved = [name for name, _ in tf.train.list_variables(checkpoint_files.newest(str(tmp_path)))]
    assert any("backbone/layer4_1/bn2/moving_variance" in name for name in saved), saved[:20]


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_moments_come_back(tmp_path, name):
    """The step after a restored checkpoint is bit for bit the one that would have been."""

    def made(seed):
        optimizer = optimizers.make_optimizer(
            name, schedules.Schedule(0.01), momentum=0.9, weight_decay=0.1
        )
        return replica_steps.make_model(optimizer=optimizer, seed=seed)

    model, other = made(0), made(1)
    model.train_step(replica_steps.views(0))
    checkpoints.Checkpoints(str(tmp_path), model, model.optimizer).save(1)
    assert checkpoints.Checkpoints(str(tmp_path), other, other.optimizer).restore() == 1
    for trained in (model, other):
        trained.train_step(replica_steps.views(1))
    for a, b in zip(state(model), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


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


KINDS = ("whole", "missing", "empty", "truncated", "zeroed", "flipped")


def damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
        return
    if kind == "empty":
        content = b""
    elif kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "zeroed":  # a length on the disk whose blocks were not
        content = bytes(len(content))
    elif kind == "flipped":
        content[len(content) // 3] ^= 16
    path.write_bytes(content)


def small_store(folder, keep=3):
    variable = tf.Variable(np.zeros(1000, np.float32))
    return checkpoints.Checkpoints(
        str(folder), tf.train.Checkpoint(v=variable), keep=keep
    ), variable


def save(store, variable, *steps):
    for step in steps:
        variable.assign(tf.fill([1000], float(step)))
        store.save(step)


@pytest.mark.parametrize("data", KINDS)
@pytest.mark.parametrize("index", KINDS)
def test_after_a_power_cut_the_newest_whole_checkpoint_is_taken(tmp_path, caplog, data, index):
    save(*small_store(tmp_path), 1, 2)
    folder = tmp_path / "checkpoints"
    damage(folder / "ckpt-2.data-00000-of-00001", data)
    damage(folder / "ckpt-2.index", index)
    left = sorted(path.name for path in folder.iterdir())
    store, variable = small_store(tmp_path)
    expected = 2 if data == index == "whole" else 1
    assert store.restore() == expected
    assert variable.numpy().tolist() == [expected] * 1000
    assert sorted(path.name for path in folder.iterdir()) == left  # nothing is thrown away
    named = [r for r in caplog.records if "ckpt-2 is damaged and passed over" in r.getMessage()]
    assert len(named) == (expected == 1 and index != "missing")
    assert store.latest().endswith(f"ckpt-{expected}")

    save(store, variable, 2)  # the run reaches the damaged step again
    store, variable = small_store(tmp_path)
    assert store.restore() == 2 and variable.numpy().tolist() == [2] * 1000


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    save(*small_store(tmp_path), 1)
    rng = np.random.default_rng(0)
    for path in (tmp_path / "checkpoints").iterdir():
        content = path.read_bytes()
        for position in rng.choice(len(content), size=60, replace=False):
            flipped = bytearray(content)
            flipped[position] ^= 1 << rng.integers(8)
            path.write_bytes(flipped)
            store, variable = small_store(tmp_path)
            # A bit that nothing is read from may pass; what is read is right, or refused.
            assert store.restore() in (None, 1)
            assert store.latest() == "none" or variable.numpy().tolist() == [1] * 1000
        path.write_bytes(content)


def test_damaged_ones_do_not_count_among_those_kept(tmp_path):
    save(*small_store(tmp_path), 1, 2, 3)
    folder = tmp_path / "checkpoints"
    damage(folder / "ckpt-3.index", "truncated")
    store, variable = small_store(tmp_path, keep=2)
    assert store.restore() == 2
    (folder / "ckpt-3_temp").mkdir()  # of a writer that was killed
    save(store, variable, 4)
    assert sorted(path.name for path in folder.glob("*.index")) == [
        "ckpt-2.index", "ckpt-3.index", "ckpt-4.index",
    ]  # fmt: skip
    assert not (folder / "ckpt-3_temp").exists()


def test_a_first_checkpoint_cut_short_starts_anew(tmp_path, caplog):
    save(*small_store(tmp_path), 1)
    damage(tmp_path / "checkpoints" / "ckpt-1.index", "truncated")
    store, _ = small_store(tmp_path)
    assert store.restore() is None and store.latest() == "none"
    assert "holds no whole checkpoint: starts at step 0" in caplog.text


def test_checkpoints_of_the_manager_that_was_used_before_still_load(tmp_path):
    variable = tf.Variable(np.full(1000, 5, np.float32))
    step = tf.Variable(5, dtype=tf.int64, trainable=False)
    saved = tf.train.Checkpoint(model=tf.train.Checkpoint(v=variable), step=step)
    tf.train.CheckpointManager(
        saved, str(tmp_path / "checkpoints"), max_to_keep=3, checkpoint_name="ckpt"
    ).save(checkpoint_number=5)
    store, variable = small_store(tmp_path)
    assert store.restore() == 5 and variable.numpy().tolist() == [5] * 1000


def test_a_new_checkpoint_is_on_the_disk_before_an_old_one_goes(tmp_path, monkeypatch):
    store, variable = small_store(tmp_path, keep=1)
    save(store, variable, 1)

    def power_cut(folder, prefix):
        raise OSError("power cut")

    monkeypatch.setattr(storage, "sync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        save(store, variable, 2)
    assert checkpoint_files.problem(str(tmp_path / "checkpoints" / "ckpt-1")) is None


def test_commands_pass_over_damaged_ones_too(tmp_path):
    save(*small_store(tmp_path), 1, 2)
    damage(tmp_path / "checkpoints" / "ckpt-2.index", "truncated")
    assert checkpoint_files.newest(str(tmp_path)).endswith("ckpt-1")
    damage(tmp_path / "checkpoints" / "ckpt-1.index", "empty")
    with pytest.raises(errors.UserError, match="damaged checkpoints only"):
        checkpoint_files.newest(str(tmp_path))
    with pytest.raises(errors.UserError, match="no checkpoint yet"):
        checkpoint_files.newest(str(tmp_path / "nowhere"))
