"""Which items of an embedded collection are most similar to a query? By cosine, a block at a time."""

import dataclasses

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.evaluation import neighbours
from tce_tf.evaluation.collection import Collection
from tce_tf.serving import loader


@dataclasses.dataclass(frozen=True)
class Item:
    """A row of a collection and its cosine with the query; time stamp in microseconds."""

    cosine: float
    name: str
    timestamp: int


def require_encoder(collection: Collection, encoder) -> None:
    """Refuses an encoder other than the one that made the collection: cosines would mean nothing.

    Raises:
      errors.UserError: it names the right one.
    """
    manifest = collection.manifest
    if manifest is None:
        logging.warning("%s does not say which encoder made it", collection.path)
        return
    if not manifest["complete"]:
        logging.warning("%s is not complete: %d rows so far", collection.path, collection.num_rows)
    if manifest["encoder_weights"] != loader.weights_digest(encoder):
        raise errors.UserError(
            f"--collection={collection.path}: was made by another encoder ({manifest['encoder']}): "
            "name that one by --encoder"
        )


def nearest(
    collection: Collection,
    query: np.ndarray,
    *,
    representation: str = "embeddings",
    top_k: int = 10,
    per_video: int = 1,
) -> list[Item]:
    """The rows with the highest cosine, best first; of equal ones the earlier first.

    Memory is that of a block of rows, whatever the size of the collection.

    Args:
      collection: an open one.
      query: float [F] or [D], any norm.
      representation: `embeddings` or `features`.
      top_k: rows wanted.
      per_video: at most so many of one video, whose neighbouring frames are all alike; 0 = any number.

    Raises:
      errors.UserError: the collection is empty or of another width, or holds NaN.
    """
    best: list[Item] = []
    direction = neighbours.unit_rows(query[np.newaxis])[0]
    for block in collection.blocks():
        rows = block[representation]
        if rows.shape[1] != len(direction):
            raise errors.UserError(
                f"--collection={collection.path}: its {representation} are {rows.shape[1]} wide, "
                f"the query's {len(direction)}: it was made by another encoder"
            )
        try:
            cosines = neighbours.unit_rows(rows) @ direction
        except ValueError as error:
            raise errors.UserError(f"--collection={collection.path}: {error}") from error
        # What the list's last entry beats cannot enter it any more: few rows get past this line.
        floor = best[-1].cosine if len(best) == top_k else -np.inf
        candidates = np.flatnonzero(cosines > floor)
        found = [
            Item(float(cosines[i]), str(block["names"][i]), int(block["timestamps"][i]))
            for i in candidates
        ]
        best = _best(best + found, top_k, per_video)
    if not best:
        raise errors.UserError(f"--collection={collection.path}: holds no rows yet")
    return best


def _best(items: list[Item], top_k: int, per_video: int) -> list[Item]:
    kept: list[Item] = []
    of_video: dict[str, int] = {}
    for item in sorted(items, key=lambda item: -item.cosine):  # stable: earlier rows first
        of_video[item.name] = of_video.get(item.name, 0) + 1
        if per_video and of_video[item.name] > per_video:
            continue
        kept.append(item)
        if len(kept) == top_k:
            break
    return kept


def table(items: list[Item]) -> list[str]:
    """Lines for people: rank, cosine, name, time."""
    names = [errors.printable(item.name) for item in items]
    width = max(map(len, [*names, "name"]))
    lines = [f"{'rank':>4}  {'cosine':>7}  {'name':<{width}}  time"]
    lines += [
        f"{rank:>4}  {item.cosine:>7.4f}  {name:<{width}}  {clock(item.timestamp)}"
        for rank, (item, name) in enumerate(zip(items, names, strict=True), start=1)
    ]
    return lines


def clock(timestamp: int) -> str:
    """Microseconds as h:mm:ss.mmm."""
    seconds, milliseconds = divmod(round(timestamp / 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}.{milliseconds:03d}"
