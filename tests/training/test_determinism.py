"""Is determinism on only where it was asked for, and off again afterwards?"""

import pytest
import tensorflow as tf

from tce_tf.training import determinism


def rewrites():
    return tf.config.optimizer.get_experimental_options().get("arithmetic_optimization", True)


@pytest.mark.parametrize(("setting", "inside"), [("auto", False), ("on", False), ("off", True)])
def test_the_switch_is_set_back_even_after_a_failure(setting, inside):
    assert rewrites() is True
    with pytest.raises(ZeroDivisionError):
        with determinism.deterministic(setting):
            assert rewrites() is inside
            _ = 1 / 0
    assert rewrites() is True


def test_auto_leaves_gpus_alone(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a GPU"])
    assert [determinism.is_on(setting) for setting in ("auto", "on", "off")] == [False, True, False]
