"""The main job with everything but the videos on `s3://`: commands against a local S3 server.

Each command must end with its exit code: tensorflow-io crashes processes at exit that used S3, unless
`data/remote.py` prevents it.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import small_network

pytest.importorskip("tensorflow_io", reason="tensorflow-io (s3://) is not on this stack")
pytest.importorskip("moto", reason="moto, the local S3 server, is not installed")
if importlib.util.find_spec("flask_cors") is None:
    pytest.skip("flask-cors, which moto's server needs, is not installed", allow_module_level=True)

TRAIN = [
    "--image_size=32", "--batch_size=8", "--num_negatives=8", "--epochs=2", "--log_every=2",
    "--checkpoint_every=3",
]  # fmt: skip


@pytest.fixture(scope="module", name="store")
def _store():
    """A client of an S3 server on loopback with an empty bucket; its address in the environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    settings = {
        "S3_ENDPOINT": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
    }  # fmt: skip
    client = boto3.client(
        "s3", endpoint_url=settings["S3_ENDPOINT"], region_name="us-east-1",
        aws_access_key_id="test", aws_secret_access_key="test",
    )  # fmt: skip
    client.create_bucket(Bucket="bucket")
    client.environment = os.environ | settings
    yield client
    server.stop()


def _keys(store, prefix):
    found = store.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return [entry["Key"].removeprefix(prefix) for entry in found]


def _read(store, key):
    return store.get_object(Bucket="bucket", Key=key)["Body"].read()


def _run(store, command, *flags, code=0):
    done = subprocess.run(
        [sys.executable, small_network.__file__, command, *flags],
        env=store.environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _make(store, clips, subset, output):
    return _run(
        store, "make_tfrecords", f"--input={clips}", "--layout=ucf101",
        f"--split_dir={clips}/splits", f"--subset={subset}", "--short_side=48",
        f"--output={output}", "--num_shards=2",
    )  # fmt: skip


@pytest.fixture(scope="module", name="job")
def _job(store, tmp_path_factory):
    """Shards, a run of 6 of 8 steps and its export, all in the store."""
    from tce_tf.data import synthetic

    root = tmp_path_factory.mktemp("s3")
    synthetic.make_clips(str(root / "clips"), num_videos=48, num_frames=8)
    _make(store, root / "clips", "train", "s3://bucket/train")
    _run(
        store, "train", "--data=s3://bucket/train", "--workdir=s3://bucket/runs/a",
        "--export_dir=s3://bucket/exported", "--steps=6", *TRAIN,
    )  # fmt: skip
    return root


def _steps(store):
    lines = _read(store, "runs/a/metrics.jsonl").decode().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_shards_run_and_export_are_in_the_store(store, job):
    _make(store, job / "clips", "train", job / "here")
    for entry in os.scandir(job / "here"):
        if entry.is_file():
            assert _read(store, f"train/{entry.name}") == open(entry.path, "rb").read()
    assert _steps(store) == [2, 4, 6]
    files = _keys(store, "runs/a/")
    assert {"config.json", "flags.txt", "metrics.jsonl"} <= set(files)
    assert [name for name in files if name.startswith("checkpoints/") and name.endswith(".index")]
    assert any(name.startswith("tensorboard/events") for name in files)
    assert {"saved_model.pb", "assets.extra/tce_config.json"} <= set(_keys(store, "exported/1/"))
    assert not os.path.exists("s3:")  # no local folder of that name


def test_a_missing_bucket_is_one_line(store, job, tmp_path):
    done = _run(
        store, "train", "--data=s3://nowhere/train", f"--workdir={tmp_path}", *TRAIN, code=1
    )
    assert "s3://nowhere/train" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_resume_export_evaluate_and_embed_from_the_store(store, job):
    done = _run(
        store, "train", "--data=s3://bucket/train", "--workdir=s3://bucket/runs/a",
        "--export_dir=s3://bucket/exported", *TRAIN,
    )  # fmt: skip
    assert "resumed from step 6" in done.stderr
    assert _steps(store) == [2, 4, 6, 8]
    done = _run(store, "export", "--workdir=s3://bucket/runs/a", "--output=s3://bucket/exported")
    assert done.stdout.strip() == "s3://bucket/exported/3"  # 1 and 2 came from training
    _make(store, job / "clips", "test", "s3://bucket/test")
    shards = ["--train=s3://bucket/train", "--test=s3://bucket/test"]
    _run(
        store, "evaluate", "--encoder=s3://bucket/exported", *shards, f"--output={job}/scores.json"
    )
    assert 0 <= json.loads((job / "scores.json").read_text())["knn.top1"] <= 1
    rows = {}
    for encoder in ("exported", "runs/a"):
        _run(
            store, "embed", f"--encoder=s3://bucket/{encoder}", "--input=s3://bucket/test",
            f"--output={job}/rows.npz",
        )  # fmt: skip
        with np.load(job / "rows.npz") as arrays:
            rows[encoder] = arrays["embeddings"]
    assert rows["exported"].shape == (16 * 8, 128)
    np.testing.assert_allclose(rows["exported"], rows["runs/a"], atol=1e-5)
    fine = ["--encoder=s3://bucket/exported", *shards, "--workdir=s3://bucket/runs/fine"]
    fine += ["--export_dir=s3://bucket/actions", "--batch_size=8", "--test_frames=2"]
    for steps in (2, 4):
        done = _run(store, "finetune", *fine, "--checkpoint_every=2", f"--steps={steps}")
    assert "resumed from step 2" in done.stderr
    assert json.loads(_read(store, "runs/fine/results.json"))["step"] == 4
    assert {"1/saved_model.pb", "2/saved_model.pb"} <= set(_keys(store, "actions/"))
