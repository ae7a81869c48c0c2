"""Does the exported encoder keep its contract? Signatures, preprocessing, trainable reload."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tce_tf import compat, errors
from tce_tf.data import augmentation
from tce_tf.modeling import resnet
from tce_tf.serving import encoder_module, export, loader, messages, warmup

CONFIG = encoder_module.EncoderConfig("resnet18", embedding_width=16, image_size=64)


@pytest.fixture(name="module")
def _module(exported_encoder):
    return exported_encoder[0]


@pytest.fixture(name="path")
def _path(exported_encoder):
    return exported_encoder[1]


@pytest.fixture(name="frames")
def _frames():
    return np.random.default_rng(0).integers(0, 256, (4, 50, 70, 3), dtype=np.uint8)


def test_signatures_agree(module, path, frames):
    loaded = tf.saved_model.load(path)
    expected = module.frames(frames)
    np.testing.assert_allclose(np.linalg.norm(expected["embeddings"], axis=1), 1, rtol=1e-5)
    signatures = loaded.signatures
    png = tf.stack([tf.io.encode_png(frame) for frame in frames])
    for outputs in (
        signatures["frames"](frames=tf.constant(frames)),
        signatures["serving_default"](image_bytes=png),
    ):
        assert set(outputs) == {"features", "embeddings"}
        for name in outputs:
            np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5)
    clip = signatures["clip"](clip=tf.constant(frames.reshape(2, 2, 50, 70, 3)))
    features = expected["features"].numpy().reshape(2, 2, -1).mean(axis=1)
    embeddings = expected["embeddings"].numpy().reshape(2, 2, -1).mean(axis=1)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(clip["features"], features, atol=1e-5)
    np.testing.assert_allclose(clip["embeddings"], embeddings, atol=1e-5)


def test_call_normalises_and_neither_resizes_nor_clips(module, path, frames):
    loaded = tf.saved_model.load(path)
    images = augmentation.preprocess_evaluation(frames, image_size=64, resize_mode="crop")
    expected = module.frames(frames)["features"]
    np.testing.assert_allclose(loaded(images), expected, atol=1e-5)
    np.testing.assert_allclose(loaded(images, training=False), expected, atol=1e-5)
    assert loaded(tf.random.stateless_uniform([2, 48, 80, 3], [0, 1])).shape == [2, 512]


def test_a_stack_encoder_takes_six_consecutive_frames_for_an_image(tmp_path):
    config = dataclasses.replace(CONFIG, input_mode="stack_of_differences")
    module = loader.build_encoder(config, seed=1)
    loaded = tf.saved_model.load(export.export_encoder(module, str(tmp_path)))
    clips = np.random.default_rng(0).integers(0, 256, (2, 8, 50, 70, 3), dtype=np.uint8)

    # By hand: each frame minus the next, in the network's own range, side by side in the channels.
    squares = augmentation.preprocess_evaluation(
        clips.reshape(16, 50, 70, 3), image_size=64, resize_mode="crop"
    )
    images = tf.reshape(squares, [2, 8, 64, 64, 3]).numpy()
    normalised = (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    backbone, projection = module.layers
    expected, embeddings = [], []
    for start in range(3):
        pairs = [normalised[:, t] - normalised[:, t + 1] for t in range(start, start + 5)]
        features = backbone(np.concatenate(pairs, axis=-1).astype(np.float32))
        expected.append(features.numpy())
        embeddings.append(projection(features).numpy())

    atol = 1e-5 * np.max(expected)
    signatures = loaded.signatures
    stacks = clips[:, :6]
    png = [[tf.io.encode_png(frame).numpy() for frame in stack] for stack in stacks]
    for outputs in (
        signatures["frames"](frames=tf.constant(stacks)),
        signatures["clip"](clip=tf.constant(stacks)),
        signatures["serving_default"](image_bytes=tf.constant(png)),
    ):
        np.testing.assert_allclose(outputs["features"], expected[0], atol=atol)
        np.testing.assert_allclose(outputs["embeddings"], embeddings[0], atol=1e-5)
    np.testing.assert_allclose(loaded(images[:, :6]), expected[0], atol=atol)
    whole = signatures["clip"](clip=tf.constant(clips))
    np.testing.assert_allclose(whole["features"], np.mean(expected, axis=0), atol=atol)
    mean = np.mean(embeddings, axis=0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(whole["embeddings"], mean, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least 6 frames"):
        signatures["clip"](clip=tf.constant(clips[:, :5]))
    assert signatures["frames"](frames=tf.constant(stacks[:0]))["features"].shape == [0, 512]
    assert signatures["clip"](clip=tf.constant(clips[:0]))["features"].shape == [0, 512]
    for request in warmup.read(loader.find_saved_model(str(tmp_path))):
        tensors = {k: tf.constant(v) for k, v in messages.arrays(request.inputs).items()}
        outputs = signatures[request.model_spec.signature_name](**tensors)
        assert outputs["features"].shape == [1, 512]
    named = loader.load_encoder(str(tmp_path))
    assert (
        tuple(named.image_shape)
        == tuple(module.image_shape)
        == (resnet.STACK_FRAMES, None, None, 3)
    )
    assert named.config == config
    assert loader.weights_digest(named) == loader.weights_digest(module)
    other = loader.build_encoder(config, seed=2)
    assert loader.weights_digest(other) != loader.weights_digest(module)


def test_reload_is_trainable(path, frames):
    loaded = tf.saved_model.load(path)
    images = tf.cast(frames, tf.float32) / 255
    means = [v for v in loaded.variables if "moving_mean" in v.name]
    before = [v.numpy() for v in means]
    loaded(images, training=False)
    for old, new in zip(before, means, strict=True):
        np.testing.assert_array_equal(old, new)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(loaded(images, training=True) ** 2)
    gradients = tape.gradient(loss, loaded.trainable_variables)
    assert len(gradients) == 60 and all(g is not None for g in gradients)
    assert all(float(tf.reduce_max(tf.abs(g))) > 0 for g in gradients)
    assert len(means) == 20
    assert all((old != new.numpy()).any() for old, new in zip(before, means, strict=True))


def test_weight_decay_is_exposed_as_a_loss(path):
    loaded = tf.saved_model.load(path)
    (loss,) = loaded.regularization_losses
    with tf.GradientTape() as tape:
        value = loss()
    squares = sum(
        np.sum(np.square(v.numpy(), dtype=np.float64)) for v in loaded.trainable_variables
    )
    np.testing.assert_allclose(value, 1e-4 * squares / 2, rtol=1e-5)
    gradients = tape.gradient(value, loaded.trainable_variables)
    for gradient, variable in zip(gradients, loaded.trainable_variables, strict=True):
        np.testing.assert_allclose(gradient, 1e-4 * variable, rtol=1e-6)


def test_files(module, path, monkeypatch):
    with open(f"{path}/assets.extra/tce_config.json", encoding="utf-8") as file:
        content = json.load(file)
        names = content.pop("variables")
        assert content == {
            "backbone": "resnet18",
            "embedding_width": 16,
            "image_size": 64,
            "resize_mode": "crop",
            "input_mode": "rgb",
            "weight_decay": 1e-4,
        }
    assert loader.encoder_config(path) == module.config
    named = encoder_module.named_weights(*module.layers)
    assert names == list(named) and len(names) == 102
    for value, weight in zip(tf.saved_model.load(path).variables, named.values(), strict=True):
        np.testing.assert_array_equal(value, compat.tf_variable(weight))
    assert not {op for op in export.operations(path) if "PyFunc" in op or ">" in op}
    parent = path.rsplit("/", 1)[0]
    assert export.versions(parent) == [1]
    with pytest.raises(errors.UserError, match="is not overwritten"):
        export.export_encoder(module, parent, version=1)
    assert loader.find_saved_model(parent) == path
    with pytest.raises(errors.UserError, match="cannot make folder .*saved_model.pb"):
        export.export_encoder(module, f"{path}/saved_model.pb")
    # Not by its mode: tests may run as root.
    monkeypatch.setattr(export.tempfile, "mkdtemp", lambda **_: os.mkdir(path))
    with pytest.raises(errors.UserError, match="cannot write to .*: File exists"):
        export.export_encoder(module, parent)


def test_half_an_export_has_no_number(module, path, tmp_path, monkeypatch):
    def killed(temporary, folder, last):
        assert folder == f"{tmp_path}/1" and os.path.isfile(f"{temporary}/{last}")
        shutil.copytree(temporary, tmp_path / ".1-left", copy_function=os.link)
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.saved_model, "save", lambda _, to, **__: shutil.copytree(
        path, to, dirs_exist_ok=True))  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(export.storage, "publish_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            export.export_encoder(module, str(tmp_path))
    # Ctrl-C leaves nothing, a kill leaves what no reader and no server takes for a version.
    assert sorted(os.listdir(tmp_path)) == [".1-left", ".lock"]
    assert loader.find_saved_model(str(tmp_path)) is None and export.versions(str(tmp_path)) == []
    assert export.export_encoder(module, str(tmp_path)) == f"{tmp_path}/1"
    assert sorted(os.listdir(tmp_path)) == [".lock", "1"]  # the next one gives back its disk


def test_two_exports_at_once_and_a_full_disk(module, tmp_path, monkeypatch):
    def save(_, to, **__):
        with pytest.raises(
            errors.UserError, match=f"another export is writing to {tmp_path}; wait"
        ):
            export.export_encoder(module, str(tmp_path))
        raise tf.errors.ResourceExhaustedError(None, None, f"{to}/a; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(errors.UserError, match=f"cannot write {tmp_path}/1: No space left on dev"):
        export.export_encoder(module, str(tmp_path))
    assert os.listdir(tmp_path) == [".lock"]


def test_an_export_loads_without_this_package(path):
    code = (
        "import sys, tensorflow as tf; m = tf.saved_model.load(sys.argv[1]);"
        "y = m.signatures['frames'](frames=tf.zeros([2, 40, 40, 3], tf.uint8));"
        "print(y['features'].shape, 'tce_tf' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, cwd="/", timeout=120
    )
    assert done.stdout.strip() == "(2, 512) False", done.stderr


def test_what_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="neither a SavedModel folder, nor"):
        loader.load_encoder(str(tmp_path))


def test_scratch_weights_are_seeded():
    first, same, other = (loader.build_encoder(CONFIG, seed=s) for s in (1, 1, 2))
    kernel = lambda module: module.variables[0].numpy()  # noqa: E731
    np.testing.assert_array_equal(kernel(first), kernel(same))
    assert (kernel(first) != kernel(other)).any()


def test_a_saved_model_of_others_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "alien"))
    with pytest.raises(errors.UserError, match="alien is a SavedModel, but none that export made"):
        loader.load_encoder(str(tmp_path / "alien"))


GOOD = dataclasses.asdict(CONFIG)
EDITS = [GOOD | edit for edit in (
    {"backbone": "vgg"}, {"backbone": []}, {"image_size": 10**9}, {"image_size": "64"},
    {"embedding_width": -1}, {"embedding_width": 10**9}, {"resize_mode": None},
    {"input_mode": "flow"}, {"weight_decay": "x"},
)]  # fmt: skip


@pytest.mark.parametrize("settings", [*EDITS, [], 1])
def test_a_workdirs_config_edited_by_hand_is_named(settings, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings}))
    with pytest.raises(errors.UserError, match="config.json is damaged: .+"):
        loader.load_encoder(str(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"[" * 10**5, json.dumps(EDITS[2]).encode()]
)
def test_a_damaged_config_is_named(content, path, tmp_path):
    os.makedirs(tmp_path / "1" / "assets.extra")
    for name in ("saved_model.pb", "variables"):
        os.symlink(os.path.join(path, name), tmp_path / "1" / name)
    (tmp_path / "1" / "assets.extra" / "tce_config.json").write_bytes(content)
    with pytest.raises(errors.UserError, match="tce_config.json is damaged .*export it again"):
        loader.load_encoder(str(tmp_path))


@pytest.mark.parametrize(("optimizer", "decay"), [("sgd", 1e-4), ("adamw", 0.0), ("lamb", 0.0)])
def test_decoupled_decay_is_no_loss_of_a_run_either(optimizer, decay, tmp_path):
    settings = {
        "backbone": "resnet18", "embedding_width": 16, "image_size": 32, "resize_mode": "crop",
        "weight_decay": 1e-4, "optimizer": optimizer,
    }  # fmt: skip
    content = {"settings": settings, "versions": {}, "data": []}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert loader.encoder_config(str(tmp_path)).weight_decay == decay
