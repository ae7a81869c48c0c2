"""What do all tests share? Two logical CPU devices, no GPU, small shards, the `slow` marker."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf

# For helper modules beside the tests (golden_recipe).
sys.path.insert(0, os.path.dirname(__file__))

tf.config.set_visible_devices([], "GPU")
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="run tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--runslow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run by make test-all"))


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
