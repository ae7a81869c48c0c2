"""Is an evaluation the sum of its protocols? Against scikit-learn on the same features; the report."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf
from sklearn import linear_model, neighbors, preprocessing

from tce_tf import errors
from tce_tf.data import shard_reader
from tce_tf.evaluation import coherence, protocols, report, video_features


class Moments:
    """An encoder whose features are the mean and spread of each colour, in four quarters."""

    image_shape = (None, None, 3)

    def frames(self, frames):
        quarters = tf.image.resize(tf.cast(frames, tf.float32), [2, 2], method="area")
        flat = tf.reshape(quarters, [-1, 12])
        spread = tf.math.reduce_std(tf.cast(frames, tf.float32), [1, 2])
        features = tf.concat([flat, spread], -1) / 255
        return {"features": features, "embeddings": tf.math.l2_normalize(features[:, :4], axis=-1)}


@pytest.fixture(scope="module", name="readers")
def _readers(synthetic_shards):
    """Shards under labels that these features can tell: eighths of how red the left upper quarter is."""
    readers = tuple(
        shard_reader.ShardReader([synthetic_shards[name]]) for name in ("train", "test")
    )
    red = [video_features.extract(Moments(), reader).features[:, 0] for reader in readers]
    bounds = np.quantile(red[0], np.arange(1, 8) / 8)
    for reader, level in zip(readers, red, strict=True):
        reader.labels = np.searchsorted(bounds, level)
    return readers


@pytest.fixture(scope="module", name="result")
def _result(readers):
    train, test = readers
    settings = protocols.Settings(
        protocols=protocols.PROTOCOLS,
        knn_k=3,
        shots=(1, 2, 99),
        few_shot_draws=3,
        coherence_frames=5,
    )
    return protocols.evaluate(Moments(), train=train, test=test, settings=settings)


def test_knn_retrieval_and_linear_equal_scikit_learn_on_the_same_features(readers, result):
    train, test = readers
    x, y = (video_features.extract(Moments(), reader).features for reader in readers)
    scores = result.scores
    vote = neighbors.KNeighborsClassifier(
        3, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(x, train.labels)
    assert scores["knn.top1"] == pytest.approx(vote.score(y, test.labels))
    np.testing.assert_array_equal(
        np.diagonal(result.confusion["knn"]),
        np.bincount(test.labels[vote.predict(y) == test.labels], minlength=8),
    )
    searcher = neighbors.NearestNeighbors(metric="cosine").fit(x)
    for k in (1, 5, 10, 20, 50):
        order = searcher.kneighbors(y, min(k, len(x)), return_distance=False)
        found = (train.labels[order] == test.labels[:, None]).any(axis=1).mean()
        assert scores[f"retrieval.r{k}"] == pytest.approx(found)
    scaler = preprocessing.StandardScaler().fit(x.astype(np.float64))
    model = linear_model.LogisticRegression(
        C=1 / (scores["linear"]["decay"] * len(x)), max_iter=1000
    ).fit(scaler.transform(x), train.labels)
    assert scores["linear.top1"] == pytest.approx(model.score(scaler.transform(y), test.labels))
    assert 0 < scores["knn.top1"] <= scores["knn.top5"] <= 1
    assert result.confusion["linear"].sum() == len(test.labels)


def test_parts_add_up_to_the_whole(readers, result):
    _, test = readers
    scores = result.scores
    present = {test.class_names[label] for label in test.labels}
    assert set(scores["per_class"]) == present and scores["per_dataset"] == {}
    videos = np.array([table["videos"] for table in scores["per_class"].values()])
    assert videos.sum() == len(test.labels)
    for name in ("knn.top1", "knn.top5", "linear.top1", "linear.top5", "retrieval.r5"):
        parts = [table[name] for table in scores["per_class"].values()]
        assert scores[name] == pytest.approx(np.average(parts, weights=videos))
    assert set(scores["few_shot.skipped"]) == {"99"}
    assert 0 <= scores["few_shot.2.mean"] <= 1 and "few_shot.99.mean" not in scores
    assert scores["coherence.neighbour_cosine"] > scores["coherence.other_cosine"]


def test_data_sets_are_told_apart_by_name(readers, monkeypatch):
    train, test = readers
    names = [f"{'ab'[i % 2]}/{name}" for i, name in enumerate(test.names)]
    monkeypatch.setattr(test, "names", names)
    scores = protocols.evaluate(
        Moments(), train=train, test=test, settings=protocols.Settings()
    ).scores
    assert list(scores["per_dataset"]) == ["a", "b"]
    halves = [table["knn.top1"] for table in scores["per_dataset"].values()]
    assert scores["knn.top1"] == pytest.approx(np.mean(halves))


def test_coherence_needs_no_labels_and_embeddings_can_be_scored(readers):
    _, test = readers
    unlabelled = types.SimpleNamespace(**vars(test))
    unlabelled.read_frames, unlabelled.labels = test.read_frames, np.full_like(test.labels, -1)
    settings = dict(protocols=("coherence",), coherence_frames=4, coherence_videos=5)
    found = [
        protocols.evaluate(
            Moments(),
            train=None,
            test=unlabelled,
            settings=protocols.Settings(**settings, representation=name),
        ).scores
        for name in ("features", "embeddings")
    ]
    assert list(found[0]) == list(found[1]) and found[0] != found[1]
    assert all(name.startswith("coherence.") for name in found[0])


def test_average_over_splits():
    def split(knn, punch):
        return {
            "knn.top1": knn,
            "linear": {"decay": 1.0},
            "per_class": {"a": {"videos": 2, "knn.top1": knn}} | punch,
            "per_dataset": {},
        }

    results = {"1": split(0.5, {}), "2": split(0.7, {"b": {"videos": 1, "knn.top1": 1.0}})}
    results["2"]["few_shot.1.mean"] = 0.3
    found = protocols.average(results)
    assert found["knn.top1"] == pytest.approx(0.6)
    assert found["std"] == {"knn.top1": pytest.approx(0.02**0.5)}
    assert found["per_class"]["b"]["knn.top1"] == 1.0 and found["splits"] == results
    assert found["per_class"]["a"]["knn.top1"] == pytest.approx(0.6)
    assert "few_shot.1.mean" not in found and "linear" not in found


def test_report(readers, result, tmp_path):
    _, test = readers
    text = "\n".join(report.lines(result.scores))
    assert f"kNN top-1 {100 * result.scores['knn.top1']:.1f} %" in text
    assert "R@50" in text and "few-shot 1 a class" in text and "uniformity" in text
    path = str(tmp_path / "new" / "scores.json")
    report.check_output(path)
    written = report.write(path, result.scores, result.confusion, test.class_names)
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == json.loads(json.dumps(result.scores))
    assert sorted(written) == sorted(str(p) for p in (tmp_path / "new").iterdir())
    assert {p.rsplit("/", 1)[1] for p in written} == {
        "scores.json", "scores.knn.confusion.csv", "scores.knn.confusion.png",
        "scores.linear.confusion.csv", "scores.linear.confusion.png",
    }  # fmt: skip
    with pytest.raises(errors.UserError, match="is a folder"):
        report.check_output(str(tmp_path))
    with pytest.raises(errors.UserError, match="cannot be written"):
        report.check_output(f"{path}/below.json")


def test_leakage_other_classes_and_no_labels_are_refused(readers):
    train, _ = readers
    with pytest.raises(errors.UserError, match="leakage: .* groups are in both"):
        protocols.evaluate(Moments(), train=train, test=train, settings=protocols.Settings())

    def like(**changes):
        fields = {"folders": ["x"], "class_names": train.class_names, "labels": train.labels}
        fields |= {"groups": [], "names": ["a/b/c"], "checksums": ["c"]}
        return types.SimpleNamespace(**(fields | changes))

    with pytest.raises(errors.UserError, match="x: holds no video"):
        protocols.check_labelled(train, like(names=[], labels=np.zeros(0, int)))
    with pytest.raises(errors.UserError, match="without a label"):
        protocols.check_labelled(train, like(labels=np.array([0, -1])))
    with pytest.raises(errors.UserError, match="different class lists"):
        protocols.check_labelled(train, like(class_names=["other"]))


def test_unknown_groups_are_said(readers, caplog, monkeypatch):
    train, test = readers
    with caplog.at_level("WARNING", logger="absl"):
        protocols.check_labelled(train, test)
        assert "leakage" not in caplog.text
        monkeypatch.setattr(test, "groups", [None] * len(test.groups))
        protocols.check_labelled(train, test)
    assert f"{len(test.groups)} videos have no known group" in caplog.text


def test_copies_without_a_known_group_are_leakage(readers, caplog, monkeypatch):
    train, test = readers
    monkeypatch.setattr(test, "groups", [None] * len(test.groups))
    known = train.checksums[0]
    monkeypatch.setattr(test, "checksums", [known, *test.checksums[1:]])
    with pytest.raises(errors.UserError, match=f"leakage: 1 of {len(test.names)} test videos"):
        protocols.check_labelled(train, test)
    # Large data sets have a few duplicates: they are said, no more.
    monkeypatch.setattr(protocols, "_MAX_DUPLICATES", 0.5)
    with caplog.at_level("WARNING", logger="absl"):
        protocols.check_labelled(train, test)
    assert f"1 test videos are in train as well, such as {test.names[0]}" in caplog.text


def test_few_shot_and_coherence_by_data_set_are_those_of_its_videos(readers, monkeypatch):
    train, test = readers
    names = [f"{'ab'[i % 2]}/x/{i}" for i in range(len(test.names))]
    monkeypatch.setattr(test, "names", names)
    settings = protocols.Settings(protocols=("few_shot", "coherence"), shots=(1,), few_shot_draws=3,
                                  coherence_frames=4)  # fmt: skip
    scores = protocols.evaluate(Moments(), train=train, test=test, settings=settings).scores
    parts = scores["per_dataset"]
    total = sum(parts[part]["videos"] * parts[part]["few_shot.1.mean"] for part in "ab")
    assert total / len(names) == pytest.approx(scores["few_shot.1.mean"])
    classes = scores["per_class"].values()
    total = sum(found["videos"] * found["few_shot.1.mean"] for found in classes)
    assert total / len(names) == pytest.approx(scores["few_shot.1.mean"])

    runs = video_features.extract_runs(Moments(), test, run_frames=4)["features"]
    for part in (0, 1):
        expected = coherence.coherence_figures(runs[part::2])
        assert scores["coherence_per_dataset"]["ab"[part]] == pytest.approx(expected)
    text = "\n".join(report.lines(scores))
    assert text.count("  a: ") == text.count("  b: ") == 2
