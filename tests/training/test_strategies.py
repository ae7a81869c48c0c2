"""Which devices share a run, which batches can be shared, and what is compiled there?"""

import types

import pytest
import tensorflow as tf

from tce_tf import errors
from tce_tf.training import strategies


def replicas(number):
    return types.SimpleNamespace(num_replicas_in_sync=number)


@pytest.fixture(name="gpus")
def _gpus(monkeypatch):
    """Pretends that the machine has so many GPUs."""

    def pretend(number):
        names = [types.SimpleNamespace(name=f"/device:GPU:{i}") for i in range(number)]
        real = tf.config.list_logical_devices
        monkeypatch.setattr(
            tf.config, "list_logical_devices", lambda kind: names if kind == "GPU" else real(kind)
        )

    return pretend


def test_auto_is_one_device_where_there_are_no_gpus():
    for name in ("auto", "one_device"):
        assert strategies.make_strategy(name).num_replicas_in_sync == 1


@pytest.mark.parametrize(("number", "expected"), [(1, None), (2, 2), (3, 3)])
def test_auto_mirrors_over_gpus_only_if_there_are_several(gpus, monkeypatch, number, expected):
    gpus(number)
    monkeypatch.setattr(strategies, "_mirrored", lambda devices: devices)
    made = strategies.make_strategy("auto")
    if expected is None:
        assert made is tf.distribute.get_strategy()
    else:
        assert made == tuple(f"/device:GPU:{i}" for i in range(expected))


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_mirrored_takes_every_cpu_device_and_adds_up_over_them(dtype):
    """Run after run in one process, of whatever type."""
    strategy = strategies.make_strategy("mirrored")
    assert strategy.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU")) == 2

    @tf.function
    def total():
        def per_replica():
            context = tf.distribute.get_replica_context()
            number = tf.cast(context.replica_id_in_sync_group, dtype) + 1
            return context.all_reduce(tf.distribute.ReduceOp.SUM, number)

        return strategy.run(per_replica)

    assert [float(part) for part in strategy.experimental_local_results(total())] == [3.0, 3.0]


def test_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="unknown strategy 'tpu'"):
        strategies.make_strategy("tpu")


@pytest.mark.parametrize(("batch", "number"), [(8, 1), (7, 1), (8, 2), (8, 8), (24, 3)])
def test_batches_that_divide_are_taken(batch, number):
    strategies.check_batch_size(batch, replicas(number))


@pytest.mark.parametrize(
    ("batch", "number", "advice"),
    [(7, 2, "use 6 or 8"), (3, 4, "use 4"), (100, 8, "use 96 or 104")],
)
def test_other_batches_are_refused_with_the_nearest_that_divide(batch, number, advice):
    expected = f"--batch_size={batch} does not divide over {number} replicas: {advice}"
    with pytest.raises(errors.UserError) as failure:
        strategies.check_batch_size(batch, replicas(number))
    assert str(failure.value) == expected


def test_parts_count_as_replicas_do():
    strategies.check_batch_size(24, replicas(2), 4)
    with pytest.raises(errors.UserError) as failure:
        strategies.check_batch_size(20, replicas(2), 4)
    assert str(failure.value) == (
        "--batch_size=20 does not divide over 2 replicas times --accumulate_steps=4: use 16 or 24"
    )


def test_jit_leaves_the_network_out_on_a_cpu(gpus):
    assert strategies.jit_settings("auto", 1) == (True, False)
    assert strategies.jit_settings("on", 1) == (True, True)
    assert strategies.jit_settings("off", 1) == (False, False)
    assert strategies.jit_settings("on", 2) == (True, False)
    gpus(1)
    assert strategies.jit_settings("auto", 1) == (True, True)
