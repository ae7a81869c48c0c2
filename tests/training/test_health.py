"""Does a run that goes wrong say so, at once and once?"""

import types

import pytest
import tensorflow as tf

from tce_tf import errors
from tce_tf.training import health


def make_watch(value=1.0):
    weight = tf.Variable([value, 2.0])
    return health.Watch(types.SimpleNamespace(weights=[weight, tf.Variable(3)])), weight


@pytest.fixture(autouse=True)
def _plain_weights(monkeypatch):
    monkeypatch.setattr(health.compat, "tf_variable", lambda weight: weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_first_bad_step_is_named_however_late_it_is_looked_for(bad):
    watch, _ = make_watch()
    note = tf.function(watch.note)
    for step, loss in enumerate([1.0, 2.0, bad, 1.0, bad, 3.0], start=1):
        if step == 3:
            watch.check_loss(2, "none")
        note(tf.constant(loss))
    with pytest.raises(errors.UserError, match="at step 3 .last good checkpoint: run/ckpt-2"):
        watch.check_loss(6, "run/ckpt-2")


def test_weights_that_are_not_finite_are_refused():
    watch, weight = make_watch()
    watch.check_weights(1, "none")
    weight.assign([1.0, float("nan")])
    with pytest.raises(errors.UserError, match="weights are not finite after step 2 .*ckpt-1"):
        watch.check_weights(2, "ckpt-1")


def test_collapse_and_a_stalled_input_are_warned_of_once(caplog):
    watch, _ = make_watch()
    healthy = {"embedding_std": 0.08, "input_wait_fraction": 0.01}
    watch.warn(
        10, healthy | {"input_wait_fraction": 0.9}
    )  # the first steps wait for the first batch
    watch.warn(20, healthy)
    assert not caplog.records
    for step in (30, 40):
        watch.warn(step, {"embedding_std": 5e-4, "input_wait_fraction": 0.4})
    collapse, stalled = (record.getMessage() for record in caplog.records)
    assert collapse.startswith("step 30: embedding_std 5.0e-04") and "--learning_rate" in collapse
    assert stalled.startswith("step 30: 40 % of the time") and "--short_side" in stalled
