"""What do all tests share? Devices, small shards, the markers `slow` and `gpu`."""

import gc
import os
import sys

import tce_tf  # isort: skip  # noqa: F401 -- before TensorFlow: its settings are those of the commands

import hypothesis
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

# For helper modules beside the tests (golden_recipe).
sys.path.insert(0, os.path.dirname(__file__))


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="run tests marked slow as well")
    parser.addoption("--gpu", action="store_true", help="run the tests marked gpu, and only those")


def pytest_configure(config):
    if not config.getoption("--gpu"):
        # Before CUDA is asked for devices; holds for the commands that tests start, too.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        tf.config.set_visible_devices([], "GPU")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


def pytest_collection_modifyitems(config, items):
    with_gpu = config.getoption("--gpu")
    for item in items:
        if "gpu" in item.keywords:
            if not with_gpu:
                item.add_marker(pytest.mark.skip(reason="GPUs are hidden: run by pytest --gpu"))
            elif not tf.config.list_physical_devices("GPU"):
                item.add_marker(pytest.mark.skip(reason="TensorFlow sees no GPU here"))
        elif with_gpu:
            item.add_marker(pytest.mark.skip(reason="not marked gpu: run by pytest without --gpu"))
        if "slow" in item.keywords and not config.getoption("--runslow"):
            item.add_marker(pytest.mark.skip(reason="slow: run by make test-all"))


@pytest.fixture(scope="module", autouse=True)
def _free_graphs():
    """Frees the graphs, with all variables in them, of the tests of a file: 8 GB by the end otherwise.

    TensorFlow registers custom gradients (Keras's optimizers make some) for the life of the process,
    and each of them holds the graph in which it was made. There is no public way to take one back.
    """
    yield
    registered = ops.gradient_registry._registry
    for name in [name for name in registered if name.startswith("CustomGradient-")]:
        del registered[name]
    gc.collect()


@pytest.fixture(scope="session")
def synthetic_shards(tmp_path_factory):
    """Folders of labelled shards, `train` (32 videos) and `test` (16), of 48 synthetic clips."""
    from tce_tf.data import conversion, plan, synthetic

    root = tmp_path_factory.mktemp("synthetic")
    synthetic.make_clips(str(root / "clips"), num_videos=48, num_frames=10)
    folders = {}
    for subset in ("train", "test"):
        folders[subset] = str(root / subset)
        conversion.make_tfrecords(
            plan.Options(
                input=str(root / "clips"),
                output=folders[subset],
                layout="ucf101",
                split_dir=str(root / "clips" / "splits"),
                subset=subset,
                short_side=48,
            ),
            num_workers=1,
        )
    return folders
