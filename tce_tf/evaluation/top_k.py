"""Was the right class among the first k? From rankings to hits, and from hits to tables."""

from collections.abc import Mapping, Sequence

import numpy as np


def hits(ranking: np.ndarray, labels: np.ndarray, ks: Sequence[int]) -> dict[int, np.ndarray]:
    """Whether each row's class is among the first k of its ranking.

    Args:
      ranking: int [Q, C'], best class first; a class that is not in it is never right.
      labels: int [Q].
      ks: numbers of first places, each at least 1.

    Returns:
      k -> bool [Q].
    """
    right = ranking == np.asarray(labels)[:, np.newaxis]
    return {k: right[:, :k].any(axis=1) for k in ks}


def table(all_hits: Mapping[str, np.ndarray], membership: Mapping[str, np.ndarray]) -> dict:
    """Fractions of hits for parts of the rows.

    Args:
      all_hits: figure's name -> bool [Q], or float [Q] in [0, 1] where a row was asked several times.
      membership: part's name -> bool [Q]; parts without a row are left out.

    Returns:
      part -> figure -> fraction in [0, 1], and `videos`, the rows of the part.
    """
    return {
        part: {"videos": int(inside.sum())}
        | {name: float(hit[inside].mean()) for name, hit in all_hits.items()}
        for part, inside in membership.items()
        if inside.any()
    }
