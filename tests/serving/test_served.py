"""Do exports answer a server as they should? Asked through TensorFlow's C library alone."""

import io
import os

import bombs
import c_loader
import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from PIL import Image

from tce_tf import errors
from tce_tf.data import augmentation
from tce_tf.serving import export, loader, messages, pretrained, warmup


def picture(height, width, seed=0):
    """A smooth colourful image, uint8 [H, W, 3]: JPEG loses little of it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, [height, width], "bicubic") + 0.5, tf.uint8).numpy()


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def files(*contents):
    return {"image_bytes": np.array(contents, object)}


def squares(pictures, size):
    """What preprocessing makes of pictures of any sizes, float32 [B, S, S, 3], normalised."""
    images = [augmentation.preprocess_evaluation(p[np.newaxis], image_size=size) for p in pictures]
    return augmentation.normalize(tf.concat(images, axis=0))


def test_jpegs_of_mixed_sizes_get_the_embeddings_of_the_keras_model(exported_encoder):
    module, path = exported_encoder
    jpegs = [
        simplejpeg.encode_jpeg(picture(*size, seed), quality=95)
        for seed, size in enumerate([(64, 64), (90, 120), (300, 41)])
    ]
    backbone, projection = module.layers
    # Decoded by libjpeg-turbo itself, as the training input does.
    features = backbone(squares([simplejpeg.decode_jpeg(j, "RGB") for j in jpegs], 64))
    embeddings = projection(features)
    (answer,) = c_loader.answers_alone(path, [("serving_default", files(*jpegs))])
    assert set(answer) == {"features", "embeddings"}
    atol = 1e-5 * np.abs(features).max()
    np.testing.assert_allclose(answer["features"], features, atol=atol)
    np.testing.assert_allclose(answer["embeddings"], embeddings, atol=1e-5)


def test_a_classifier_is_served_too(exported_classifier):
    model, _, path = exported_classifier
    pictures = [picture(60, 80, seed) for seed in range(3)]
    logits = model(squares(pictures, 48), training=False).numpy()
    exponents = np.exp(3 * logits)
    pngs = [encoded(Image.fromarray(p), format="PNG") for p in pictures]
    requests = [("serving_default", files(*pngs)), ("frames", {"frames": np.stack(pictures)})]
    for answer in c_loader.answers_alone(path, requests):
        np.testing.assert_allclose(answer["logits"], logits, atol=1e-5)
        expected = exponents / exponents.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    with open(os.path.join(path, "assets", "class_names.txt"), encoding="utf-8") as file:
        assert file.read().splitlines() == ["Archery", "Bowling", "Größe"]


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_every_signature_takes_no_one_and_many(kind, request):
    *_, path = request.getfixturevalue(f"exported_{kind}")
    pictures = np.stack([picture(50, 60, seed) for seed in range(37)])
    jpegs = [simplejpeg.encode_jpeg(p) for p in pictures]
    clips = np.stack([pictures, pictures[::-1]], axis=1)
    inputs = {"serving_default": files(*jpegs), "frames": {"frames": pictures}}
    inputs["clip"] = {"clip": clips}
    requests = [
        (signature, {name: array[:count] for name, array in arrays.items()})
        for signature, arrays in inputs.items()
        for count in (37, 1, 0)
    ]
    answers = c_loader.answers_alone(path, requests)
    for i, signature in enumerate(inputs):
        many, one, none = answers[3 * i : 3 * i + 3]
        for name, rows in many.items():
            assert rows.shape[0] == 37 and np.isfinite(rows).all(), signature
            assert none[name].shape == (0, rows.shape[1])
            np.testing.assert_allclose(one[name], rows[:1], atol=1e-5 * np.abs(rows).max())


def test_a_frozen_export_answers_alike_and_is_for_servers_alone(exported_encoder, tmp_path):
    module, path = exported_encoder
    frozen = export.export_encoder(module, str(tmp_path), is_frozen=True)
    requests = [(r.model_spec.signature_name, messages.arrays(r.inputs)) for r in warmup.read(path)]
    requests.append(("frames", {"frames": np.zeros([0, 60, 60, 3], np.uint8)}))
    plain, constant = (c_loader.answers_alone(folder, requests) for folder in (path, frozen))
    for expected, answer in zip(plain, constant, strict=True):
        assert set(answer) == set(expected)
        for name, rows in expected.items():
            np.testing.assert_allclose(
                answer[name], rows, atol=1e-5 * np.max(np.abs(rows), initial=1)
            )
    assert not {op for op in export.operations(frozen) if "Variable" in op}
    assert os.path.getsize(f"{frozen}/saved_model.pb") < 1.1 * 4 * sum(
        v.shape.num_elements() for v in module.variables
    )
    with pytest.raises(errors.UserError, match="was exported with --frozen, for servers alone"):
        loader.load_encoder(frozen)
    with pytest.raises(errors.UserError, match="--frozen: it has no weights to train"):
        pretrained.read_backbone(frozen, module.config)


def sixteen_bits(image):
    """A 16-bit PNG with other lower halves than upper ones."""
    return tf.io.encode_png(tf.constant(image.astype(np.uint16) * 256 + 77)).numpy()


def turned(image):
    """A JPEG which says in its EXIF that it must be turned by 90 degrees to be seen upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, format="JPEG", quality=95, exif=exif)


RGB = picture(64, 64)
GREY = np.repeat(RGB[..., :1], 3, axis=2)
ALPHA = np.random.default_rng(1).integers(0, 256, (64, 64, 1), dtype=np.uint8)
IMAGE = Image.fromarray(RGB)
PALETTE = IMAGE.quantize(64)
FORMATS = {
    # kind: file, pixels that are meant; lossless ones first
    "png": (encoded(IMAGE, format="PNG"), RGB),
    "png with alpha": (encoded(Image.fromarray(np.dstack([RGB, ALPHA])), format="PNG"), RGB),
    "grey png": (encoded(Image.fromarray(GREY[..., 0]), format="PNG"), GREY),
    "png with a palette": (encoded(PALETTE, format="PNG"), np.array(PALETTE.convert("RGB"))),
    "16-bit png": (sixteen_bits(RGB), RGB),
    "16-bit png with alpha": (sixteen_bits(np.dstack([RGB, ALPHA])), RGB),
    "grey 16-bit png": (sixteen_bits(GREY[..., :1]), GREY),
    "jpeg": (encoded(IMAGE, format="JPEG", quality=95), RGB),
    "grey jpeg": (encoded(Image.fromarray(GREY[..., 0]), format="JPEG", quality=95), GREY),
    "progressive jpeg": (encoded(IMAGE, format="JPEG", quality=95, progressive=True), RGB),
    "cmyk jpeg": (encoded(IMAGE.convert("CMYK"), format="JPEG", quality=95), RGB),
    "jpeg to be turned": (turned(IMAGE), RGB),
}


def test_pictures_of_every_kind_mean_their_rgb_pixels(exported_encoder):
    _, path = exported_encoder
    contents, pixels = zip(*FORMATS.values(), strict=True)
    read, meant, turned_round = c_loader.answers_alone(
        path,
        [
            ("serving_default", files(*contents)),
            ("frames", {"frames": np.stack(pixels)}),
            ("frames", {"frames": np.rot90(RGB, 3)[np.newaxis].copy()}),
        ],
    )
    distances = np.linalg.norm(read["embeddings"] - meant["embeddings"], axis=1)
    # How far the picture moves that an orientation mistaken would show.
    turn = np.linalg.norm(turned_round["embeddings"] - meant["embeddings"][:1])
    print(dict(zip(FORMATS, distances, strict=True)), turn)
    for kind, distance in zip(FORMATS, distances, strict=True):
        assert distance < (turn / 5 if "jpeg" in kind else 1e-5), kind


def test_what_is_no_image_fails_that_request_alone(exported_encoder):
    _, path = exported_encoder
    good = FORMATS["jpeg"][0]
    cut = good[: len(good) // 2]
    requests = [("serving_default", files(good, b)) for b in (b"no image at all", b"", cut)]
    requests.append(("clip", {"clip": np.zeros([1, 0, 64, 64, 3], np.uint8)}))
    answers = c_loader.answers_alone(path, [*requests, ("serving_default", files(good))])
    text, empty, damaged, no_frames, after = answers
    assert "neither JPEG nor PNG" in text
    assert "neither JPEG nor PNG" in empty
    assert "Invalid JPEG data" in damaged
    assert "a clip needs at least 1 frame" in no_frames
    assert after["embeddings"].shape == (1, 16)


def test_a_picture_that_claims_too_much_is_refused_before_memory_is_taken(exported_encoder):
    _, path = exported_encoder
    jpeg, png = (FORMATS[kind][0] for kind in ("jpeg", "png"))
    refused = [bombs.claiming(f, 60_000, 60_000) for f in (jpeg, png)]
    # Just over the limit of 8192 x 8192; a side that is no positive 32-bit number; a header cut off.
    refused += [bombs.claiming(jpeg, 8193, 8192), bombs.claiming(png, 1, 2**31 + 1), png[:20]]
    # A whole and valid one: without the limit its pixels would take 430 MB.
    refused.append(bombs.png(12_000, 12_000))
    requests = [("serving_default", files(bomb)) for bomb in refused]
    normal = ("serving_default", files(jpeg))
    _, usual = c_loader.answers_and_peak(path, [normal])
    answers, peak = c_loader.answers_and_peak(path, [*requests, normal])
    print(f"peak {usual / 1e6:.0f} MB without and {peak / 1e6:.0f} MB with them")
    assert peak < usual + 100e6
    for answer in answers[:2]:
        assert "claims 60000 x 60000 px: at most 67108864 px are decoded" in answer
    assert "claims 8192 x 8193 px" in answers[2]
    assert "at most 67108864 px" in answers[3]
    assert "a PNG that ends within its header" in answers[4]
    assert "claims 12000 x 12000 px" in answers[5]
    assert answers[6]["embeddings"].shape == (1, 16)


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_warm_up_plays_a_real_request_to_every_signature(kind, request):
    *_, path = request.getfixturevalue(f"exported_{kind}")
    requests = warmup.read(path)
    played = [(r.model_spec.signature_name, messages.arrays(r.inputs)) for r in requests]
    assert [signature for signature, _ in played] == ["serving_default", "frames", "clip"]
    assert {r.model_spec.name for r in requests} == {os.path.basename(os.path.dirname(path))}
    answers = c_loader.answers_alone(path, played)
    for answer in answers:
        for name, rows in answer.items():
            assert rows.shape[0] == 1 and np.isfinite(rows).all(), name
    # The picture in the file is the one in the array, but for what JPEG loses of noise.
    name = "embeddings" if kind == "encoder" else "logits"
    assert np.abs(answers[1][name] - answers[2][name]).max() < 1e-4
