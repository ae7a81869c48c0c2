"""Where do vectors lie in a plane? PCA that keeps the asked variance, then t-SNE; or PCA alone.

t-SNE (van der Maaten and Hinton 2008) keeps neighbours together and gives every neighbourhood the same
room: distances of far groups, and how far a step leads, cannot be read from it. The plane of the first
two principal components keeps these, as far as they lie in it.
"""

import numpy as np
import threadpoolctl

_FEWEST = 4  # rows that t-SNE can arrange; fewer have an exact picture


def project(
    vectors: np.ndarray, *, seed: int = 0, variance: float = 0.95, perplexity: float = 30.0
) -> np.ndarray:
    """Places vectors in a plane. The same input and seed give the same places, on any number of cores.

    Args:
      vectors: float [n, F], n from 1; 5,000 take some 20 s of one core.
      seed: of t-SNE.
      variance: share of the variance that the vectors keep before t-SNE, in (0, 1].
      perplexity: about how many neighbours of a point count; lowered to a third of n.

    Returns:
      float32 [n, 2]; zeros where all vectors are the same.

    Raises:
      ValueError: no vectors, or values that are not finite.
    """
    vectors = _checked(vectors)
    # Parallel sums come in another order each time, and t-SNE makes another picture of a last digit.
    with threadpoolctl.threadpool_limits(1):
        kept = keep_variance(vectors, variance)
        if len(vectors) < _FEWEST or not kept.shape[1]:
            return _two(kept)
        return _tsne(kept, seed, perplexity)


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """The first two principal components, one unit of the plane being one of the vectors.

    Args:
      vectors: float [n, F], n from 1.

    Returns:
      float32 [n, 2]; zeros where all vectors are the same.

    Raises:
      ValueError: no vectors, or values that are not finite.
    """
    vectors = _checked(vectors)
    with threadpoolctl.threadpool_limits(1):
        return _two(keep_variance(vectors, 1.0))


def keep_variance(vectors: np.ndarray, variance: float) -> np.ndarray:
    """Principal components, the fewest that hold the asked share of the variance.

    Args:
      vectors: float [n, F].
      variance: in (0, 1].

    Returns:
      float32 [n, C], the strongest component first; C is 0 where all vectors are the same.
    """
    from sklearn import decomposition

    # Products of small differences: float32 would lose the weak components of 5,000 unit vectors.
    centred = np.asarray(vectors, np.float64)
    centred = centred - centred.mean(axis=0)
    if len(vectors) < 2 or np.abs(centred).max() < 1e-6 * max(np.abs(vectors).max(), 1e-30):
        return np.zeros((len(vectors), 0), np.float32)
    # A share, not a number, of components: scikit-learn then takes an exact solver, never the
    # randomised one.
    pca = decomposition.PCA(variance if variance < 1 else None)
    return pca.fit_transform(centred).astype(np.float32)


def _checked(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or not len(vectors) or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be finite, [n, F] with n from 1; got {vectors.shape}")
    return vectors


def _two(components: np.ndarray) -> np.ndarray:
    """The first two columns, zeros where there are fewer."""
    places = np.zeros((len(components), 2), np.float32)
    places[:, : components.shape[1]] = components[:, :2]
    return places


def _tsne(vectors: np.ndarray, seed: int, perplexity: float) -> np.ndarray:
    from sklearn import manifold

    if vectors.shape[1] < 2:
        vectors = np.pad(vectors, ((0, 0), (0, 1)))
    tsne = manifold.TSNE(
        perplexity=min(perplexity, (len(vectors) - 1) / 3),
        init="pca",
        random_state=seed,
    )
    return tsne.fit_transform(vectors)
