"""Are the nearest rows those of the highest cosine? Against a search of all, with and without a cap."""

import numpy as np
import pytest
from embedded import Frames, Levels, embed

from tce_tf import errors
from tce_tf.evaluation import collection, search


@pytest.fixture(name="rows")
def _rows():
    rng = np.random.default_rng(0)
    names = np.repeat([f"video {i}" for i in range(12)], 25)
    # Frames of a video lie together, so that without a cap one video takes all the places.
    embeddings = np.repeat(rng.normal(size=(12, 8)), 25, axis=0) + rng.normal(size=(300, 8)) / 5
    return {
        "features": rng.normal(size=(300, 5)).astype(np.float32),
        "embeddings": embeddings.astype(np.float32),
        "names": names,
        "timestamps": np.tile(np.arange(25) * 40_000, 12),
    }


class Blocks:
    """An open collection that hands out its rows a few at a time."""

    path, manifest = "all.npz", None

    def __init__(self, rows, size):
        self._rows, self._size = rows, size

    def blocks(self):
        for start in range(0, len(self._rows["names"]), self._size):
            yield {name: x[start : start + self._size] for name, x in self._rows.items()}


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("per_video", [0, 1, 3])
@pytest.mark.parametrize("representation", ["embeddings", "features"])
def test_the_nearest_are_those_of_the_oracle(rows, size, per_video, representation):
    vectors = rows[representation].astype(np.float64)
    query = vectors[130] + 0.1
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    expected, taken = [], {}
    for i in np.argsort(-cosines):
        name = rows["names"][i]
        taken[name] = taken.get(name, 0) + 1
        if not per_video or taken[name] <= per_video:
            expected.append((name, rows["timestamps"][i], cosines[i]))
    found = search.nearest(
        Blocks(rows, size),
        query,
        representation=representation,
        top_k=10,
        per_video=per_video,
    )
    assert [(x.name, x.timestamp) for x in found] == [(n, t) for n, t, _ in expected[:10]]
    np.testing.assert_allclose([x.cosine for x in found], [c for *_, c in expected[:10]], atol=1e-6)
    if representation == "embeddings" and per_video != 3:
        assert len({x.name for x in found}) == (10 if per_video else 1)


def test_of_equal_rows_the_earlier_comes_first(rows):
    rows = rows | {"embeddings": np.ones([300, 8], np.float32)}
    for size in (1, 40):
        found = search.nearest(Blocks(rows, size), np.ones(8), top_k=3, per_video=2)
        assert [(x.name, x.timestamp) for x in found] == [
            ("video 0", 0), ("video 0", 40_000), ("video 1", 0),
        ]  # fmt: skip
    assert len(search.nearest(Blocks(rows, 40), np.ones(8), top_k=99, per_video=1)) == 12


def test_what_cannot_be_compared_is_refused(rows, tmp_path):
    with pytest.raises(errors.UserError, match="its embeddings are 8 wide, the query's 7"):
        search.nearest(Blocks(rows, 100), np.ones(7))
    rows["embeddings"][250, 0] = np.nan
    with pytest.raises(errors.UserError, match="--collection=all.npz: features contain NaN"):
        search.nearest(Blocks(rows, 100), np.ones(8))
    with pytest.raises(errors.UserError, match="holds no rows yet"):
        search.nearest(Blocks({name: x[:0] for name, x in rows.items()}, 100), np.ones(8))
    embed(Levels(), Frames([3]), tmp_path / "a.npz")
    opened = collection.open_collection(str(tmp_path / "a.npz"))
    search.require_encoder(opened, Levels())
    with pytest.raises(errors.UserError, match=r"was made by another encoder \(test\)"):
        search.require_encoder(opened, Levels(2))


def test_the_table_lines_up():
    items = [search.Item(0.98765, "a/long name", 3_723_004_600), search.Item(-1.0, "b", 0)]
    assert search.table(items) == [
        "rank   cosine  name         time",
        "   1   0.9877  a/long name  1:02:03.005",
        "   2  -1.0000  b            0:00:00.000",
    ]
