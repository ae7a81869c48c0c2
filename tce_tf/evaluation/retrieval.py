"""Does a test video find training videos of its class? Nearest-neighbour retrieval, R@k.

As the field reports it since Buechler et al. 2018 (arXiv 1807.11293) and Xu et al. 2019
("Self-supervised Spatiotemporal Learning via Video Clip Order Prediction"): test videos are queries,
training videos the gallery, a video is the mean feature of 10 clips (here frames), similarity is the
cosine, and a query counts when any of the k most similar gallery videos has its class.
"""

from collections.abc import Sequence

import numpy as np

from tce_tf.evaluation import neighbours, top_k

KS = (1, 5, 10, 20, 50)


def retrieval_hits(
    gallery_features: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    query_features: np.ndarray,
    query_labels: np.ndarray,
    ks: Sequence[int] = KS,
) -> dict[int, np.ndarray]:
    """Whether each query finds its class among the first k; arguments as `retrieval_recall_at_k`.

    Returns:
      k -> bool [Q].
    """
    gallery_labels, query_labels = np.asarray(gallery_labels), np.asarray(query_labels)
    for name, features, labels in (
        ("gallery", gallery_features, gallery_labels),
        ("query", query_features, query_labels),
    ):
        if labels.shape != (len(features),):
            raise ValueError(
                f"{name} features {np.shape(features)} and labels {labels.shape} do not fit together"
            )
    if not len(query_labels) or min(ks) < 1:
        raise ValueError(f"got {len(query_labels)} queries, k = {tuple(ks)}: both start at 1")
    found = np.empty((len(query_labels), min(max(ks), len(gallery_labels))), np.int64)
    for block, similarities in neighbours.similarities(query_features, gallery_features):
        found[block] = gallery_labels[neighbours.nearest(similarities, max(ks))]
    return top_k.hits(found, query_labels, ks)


def retrieval_recall_at_k(
    gallery_features: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    query_features: np.ndarray,
    query_labels: np.ndarray,
    ks: Sequence[int] = KS,
) -> dict[int, float]:
    """The share of queries with a video of their class among the k most similar ones.

    Gallery and query set must have no video in common: a query would find itself.

    Example: gallery classes 0, 0, 1; a query of class 1 whose neighbours in order are of classes 0, 1, 0
    misses at k = 1 and hits at k = 2 and above.

    Args:
      gallery_features: float [M, F], any norm.
      gallery_labels: int [M].
      query_features: float [Q, F].
      query_labels: int [Q]; a class that the gallery lacks is a miss at every k.
      ks: numbers of neighbours; beyond M all of the gallery is looked at.

    Returns:
      k -> fraction in [0, 1].

    Raises:
      ValueError: no gallery or no query, shapes that do not fit, a k below 1, or features that are not
        finite.
    """
    hits = retrieval_hits(
        gallery_features,
        gallery_labels,
        query_features=query_features,
        query_labels=query_labels,
        ks=ks,
    )
    return {k: float(hit.mean()) for k, hit in hits.items()}
