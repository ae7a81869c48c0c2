"""Does TensorBoard's projector get each video's vector, name, class and middle frame?"""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import projector_config_pb2

from tce_tf.data import decoding, shard_reader
from tce_tf.training import projector


@pytest.fixture(scope="module", name="reader")
def _reader(synthetic_shards):
    return shard_reader.ShardReader([synthetic_shards["test"]])


def test_vectors_labels_and_thumbnails_are_in_the_reader_s_order(reader, tmp_path):
    features = np.random.default_rng(0).standard_normal([len(reader.names), 5])
    projector.write(str(tmp_path), features, reader)
    found = text_format.Parse(
        (tmp_path / "projector_config.pbtxt").read_text(), projector_config_pb2.ProjectorConfig()
    )
    (entry,) = found.embeddings
    vectors = np.loadtxt(tmp_path / entry.tensor_path, delimiter="\t")
    np.testing.assert_allclose(vectors, features, rtol=1e-5)
    head, *labels = (tmp_path / entry.metadata_path).read_text().splitlines()
    assert head == "name\tclass"
    assert labels == [
        f"{name}\t{reader.class_names[label]}"
        for name, label in zip(reader.names, reader.labels, strict=True)
    ]
    sprite = np.array(Image.open(tmp_path / entry.sprite.image_path))
    side, _ = entry.sprite.single_image_dim
    assert side == 64 and sprite.shape == (4 * side, 4 * side, 3)  # 16 videos
    for video in range(len(reader.names)):
        (jpeg,) = reader.read_frames(
            np.array([video]), np.array([int(reader.num_frames[video]) // 2])
        )
        frame = decoding.decode_jpeg(jpeg)
        row, column = divmod(video, 4)
        shown = sprite[row * side : (row + 1) * side, column * side : (column + 1) * side]
        expected = tf.image.resize(frame, [side, side], method="area").numpy()
        assert np.abs(shown - expected).mean() < 4

    # Later vectors replace the earlier; the rest stays.
    made = (tmp_path / entry.sprite.image_path).stat().st_mtime_ns
    projector.write(str(tmp_path), 2 * features, reader)
    vectors = np.loadtxt(tmp_path / entry.tensor_path, delimiter="\t")
    np.testing.assert_allclose(vectors, 2 * features, rtol=1e-5)
    assert (tmp_path / entry.sprite.image_path).stat().st_mtime_ns == made


def test_other_videos_replace_those_of_before(reader, synthetic_shards, tmp_path):
    """A run may go on with another --eval_test."""
    projector.write(str(tmp_path), np.ones([len(reader.names), 5]), reader)
    before = (tmp_path / "projector.thumbnails.png").read_bytes()
    others = shard_reader.ShardReader([synthetic_shards["train"]])
    projector.write(str(tmp_path), np.ones([len(others.names), 5]), others)
    labels = (tmp_path / "projector.labels.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in labels[1:]] == others.names
    assert (tmp_path / "projector.thumbnails.png").read_bytes() != before


@pytest.mark.parametrize(("count", "side"), [(1, 64), (16_384, 64), (16_385, 63), (5_000, 64)])
def test_thumbnails_fit_into_the_projector_s_limit(count, side):
    assert projector.thumbnail_side(count) == side
    assert int(np.ceil(np.sqrt(count))) * side <= 8_192


def test_more_videos_than_it_shows_are_thinned_out_evenly(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "MAX_VIDEOS", 4)
    features = np.arange(len(reader.names), dtype=float)[:, np.newaxis]
    projector.write(str(tmp_path), features, reader)
    assert np.loadtxt(tmp_path / "projector.vectors.tsv").tolist() == [0, 4, 8, 12]
    assert len((tmp_path / "projector.labels.tsv").read_text().splitlines()) == 5
