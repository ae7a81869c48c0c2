"""Do TensorBoard's pictures show the views and the mined negatives that they say?"""

import numpy as np
import pytest
import small_network
import tensorflow as tf

from tce_tf import config
from tce_tf.data import augmentation, pipeline, shard_reader
from tce_tf.modeling import resnet, tce_model
from tce_tf.training import pictures, setup

SIDE = 32


@pytest.fixture(scope="module", name="reader")
def _reader(synthetic_shards):
    return shard_reader.ShardReader([synthetic_shards["train"]])


def make_pictures(reader, monkeypatch, first_step=1, **objective):
    monkeypatch.setitem(resnet.STAGES, "resnet18", small_network.SMALL)
    model = tce_model.TCEModel(
        num_videos=reader.num_rows,
        objective=tce_model.Objective(num_negatives=16, total_steps=100, **objective),
    )
    model.initialize(SIDE)
    made = pictures.Pictures(
        model,
        setup.EncoderCopy(model, config.TrainConfig(image_size=SIDE)),
        reader,
        image_size=SIDE,
        steps_per_epoch=4,
        first_step=first_step,
    )
    return model, made


def a_batch(reader, step=0):
    inputs = pipeline.TrainingInput(reader, batch_size=8, frame_gap=(1, 1), seed=0)
    (batch,) = inputs.dataset(start_step=step, num_steps=1)
    return batch


def tile(image, row, column):
    size = SIDE + 2
    return image[row * size : row * size + SIDE, column * size : column * size + SIDE]


def test_pictures_are_due_at_the_first_step_and_after_epochs_that_are_powers_of_two(
    reader, monkeypatch
):
    _, made = make_pictures(reader, monkeypatch, first_step=3)
    assert [step for step in range(3, 70) if made.due(step)] == [3, 4, 8, 16, 32, 64]
    _, made = make_pictures(reader, monkeypatch, mining=False)
    assert [step for step in range(1, 70) if made.due(step)] == [1]


def test_views_are_those_of_the_step(reader, monkeypatch):
    _, made = make_pictures(reader, monkeypatch)
    batch = a_batch(reader)
    (picture,) = made.draw(1, batch)
    assert picture.name == "views" and picture.image.dtype == np.uint8
    assert picture.image.shape == (8 * SIDE + 7 * 2, 3 * SIDE + 2 * 2, 3)
    views = augmentation.compile_training_views(image_size=SIDE)(batch)
    for column, view in enumerate(("anchor", "positive", "rotated")):
        for row in range(8):
            expected = views[view][row] * augmentation.IMAGENET_STD + augmentation.IMAGENET_MEAN
            shown = tile(picture.image, row, column)
            np.testing.assert_allclose(shown, 255 * expected.numpy().clip(0, 1), atol=1)
    turns = ", ".join(str(90 * int(label)) for label in views["rotation_label"])
    assert f"turned by {turns} degrees" in picture.text


def test_the_most_similar_of_the_mined_stand_beside_their_anchor(reader, monkeypatch):
    """Found again by brute force: all rows below the threshold, the most similar first."""
    model, made = make_pictures(reader, monkeypatch, mining_low=0.5, mining_rate=0.0)
    batch = a_batch(reader, step=3)
    anchors = augmentation.training_views(batch, image_size=SIDE)["anchor"]
    embeddings = model(anchors, training=False)["embeddings"].numpy()
    # Half of the rows are like the anchors, at known cosines, half are not.
    cosines = np.linspace(0.95, -0.4, reader.num_rows)
    noise = np.random.default_rng(0).standard_normal([reader.num_rows, embeddings.shape[1]])
    noise -= np.outer(noise @ embeddings[0], embeddings[0])
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    bank = np.outer(cosines, embeddings[0]) + np.sqrt(1 - cosines**2)[:, np.newaxis] * noise
    model.bank.update(tf.range(reader.num_rows), tf.constant(bank, tf.float32))

    (picture,) = made.draw(4, batch)
    assert picture.name == "mined_negatives"
    assert picture.image.shape == (6 * SIDE + 5 * 2, 9 * SIDE + 8 * 2, 3)
    similarity = embeddings[0] @ bank.T
    own = int(batch["video_index"][0])
    order = [r for r in np.argsort(-similarity) if similarity[r] < 0.5 and r != own]
    line = picture.text.splitlines()[4]
    names = [name.strip() for name in line.strip("| ").split("|")]
    rows = {int(row): name for row, name in zip(reader.rows, reader.names, strict=True)}
    assert names[0] == rows[own] and int(names[1]) == min(16, len(order))
    assert names[2:] == [f"{rows[r]} ({similarity[r]:.2f})" for r in order[:8]]

    anchor = anchors[0].numpy() * augmentation.IMAGENET_STD + augmentation.IMAGENET_MEAN
    np.testing.assert_allclose(tile(picture.image, 0, 0), 255 * anchor.clip(0, 1), atol=1)
    video = int(np.flatnonzero(reader.rows == order[0])[0])
    middle = int(reader.num_frames[video]) // 2
    (jpeg,) = reader.read_frames(np.array([video]), np.array([middle]))
    pixels = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE")[tf.newaxis]
    expected = 255 * augmentation.preprocess_evaluation(pixels, image_size=SIDE)[0].numpy()
    np.testing.assert_allclose(tile(picture.image, 0, 1), expected, atol=1)


def test_an_anchor_without_mined_negatives_has_none_beside_it(reader, monkeypatch):
    _, made = make_pictures(reader, monkeypatch, mining_low=-1.0, mining_high=-1.0)
    (picture,) = made.draw(4, a_batch(reader, step=3))
    assert "| 0 |" in picture.text.splitlines()[4].replace("  ", " ")
    assert tile(picture.image, 0, 0).std() > 0
    assert (tile(picture.image, 0, 1) == 255).all()
