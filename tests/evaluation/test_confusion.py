"""Do the confusion matrix, its CSV and its picture hold what they should, for any class name?"""

import csv

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from tce_tf.evaluation import confusion


def test_counts_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, 90), rng.integers(0, 6, 90)
    np.testing.assert_array_equal(
        confusion.confusion_matrix(labels, predictions, 6),
        metrics.confusion_matrix(labels, predictions, labels=range(6)),
    )


def test_csv_keeps_awkward_names(tmp_path):
    names = ['a "b", c', "line\nbreak", "日本"]
    counts = np.arange(9).reshape(3, 3)
    confusion.write_csv(str(tmp_path / "a.csv"), counts, names)
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["true class", *names]
    assert [row[0] for row in rows] == names
    assert [[int(x) for x in row[1:]] for row in rows] == counts.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("num_classes", [2, 101, 900])
def test_picture(tmp_path, num_classes):
    names = ["$x_{", "日本" * 20, *(f"Class{i}" for i in range(898))][:num_classes]
    counts = np.diag(np.arange(num_classes))
    path = tmp_path / "a.png"
    confusion.write_picture(str(path), counts, names, title="a $ b")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert min(image.size) > 300 and max(image.size) < 4000
    # Full blue on the diagonal, blank elsewhere and in the row without a video.
    blue = (np.abs(pixels.astype(int) - [8, 48, 107]) < 3).all(axis=1)
    assert blue.any()


def test_short_names():
    assert confusion.short_name("PushUps") == "PushUps"
    long = confusion.short_name("putting_something_similar_to_other_things\n_on_the_table")
    assert len(long) == 24 and long.startswith("putting_som") and long.endswith("on_the_table")
    assert confusion.short_name("a\tb\x07c") == "a b c"
