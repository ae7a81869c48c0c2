"""Are the classes linearly separable in an encoder's features? Logistic regression on frozen features.

Features are standardised, which does what the batch norm without scale before the linear layer does in
He et al. 2022 (arXiv 2111.06377, appendix A.1): one grid of regularisations fits every encoder,
whatever the scale and the common mean of its features. As in Kornblith et al. 2019 (arXiv 1805.08974)
the L2 regularisation is chosen on a held-out part of the training set, then all of it is fitted again.
Videos of one group (one scene) are held out together: among near-copies the weakest would win.
"""

import dataclasses
import typing
import warnings
from collections.abc import Sequence

import numpy as np
import threadpoolctl
from absl import logging

from tce_tf import errors

if typing.TYPE_CHECKING:
    from sklearn import pipeline

# L2 weight against the mean loss of a video, strongest first.
DECAYS = tuple(10.0**exponent for exponent in range(1, -6, -1))
SOLVERS = ("auto", "lbfgs", "sgd")
_SGD_ROWS = 50_000  # auto: L-BFGS reads all videos at every step
_HELD_OUT_FRACTION = 0.2
# Products of a pass below which BLAS threads wait for each other longer than they compute: with two
# of them a fit of 373 videos took 20 times the CPU time of one.
_ONE_THREAD_BELOW = 10**8


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
      model: scikit-learn's, standardisation included.
      solver: lbfgs or sgd.
      decay: the chosen one of `DECAYS`.
      held_out_top1: its accuracy on the held-out videos, in [0, 1].
      num_held_out: how many those were.
    """

    model: "pipeline.Pipeline"
    solver: str
    decay: float
    held_out_top1: float
    num_held_out: int

    def rank_classes(self, features: np.ndarray) -> np.ndarray:
        """The training classes, most probable first, for float [Q, F]: int64 [Q, C']."""
        scores = self.model.decision_function(features)
        if scores.ndim == 1:  # scikit-learn gives one column for two classes
            scores = np.stack([-scores, scores], axis=1)
        return self.model.classes_[np.argsort(-scores, axis=1, kind="stable")]


def fit_linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    groups: Sequence[str | None] | None = None,
    solver: str = "auto",
    seed: int = 0,
) -> LinearProbe:
    """Chooses the regularisation and fits the probe.

    Args:
      features: float [M, F].
      labels: int [M].
      groups: M scenes; a video with None stands for itself, and so do all without groups.
      solver: lbfgs: multinomial, exact. sgd: one class against the rest, by steps over single videos.
        auto: sgd above 50,000 videos.
      seed: of the held-out part, and of sgd's order.

    Raises:
      errors.UserError: fewer than two classes, or nothing that can be held out.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if solver == "auto":
        solver = "sgd" if len(labels) > _SGD_ROWS else "lbfgs"
    held_out = choose_held_out(labels, groups, seed=seed)
    if len(np.unique(labels[~held_out])) < 2 or not held_out.any():
        raise errors.UserError(
            f"a linear probe on {len(labels)} videos of {len(np.unique(labels))} classes: it needs two "
            "classes, and of one of them two groups, to hold some videos out"
        )
    accuracies = [
        _fit(features[~held_out], labels[~held_out], solver, decay, seed).score(
            features[held_out], labels[held_out]
        )
        for decay in DECAYS
    ]
    tied = np.flatnonzero(accuracies == np.max(accuracies))
    best = int(tied[(len(tied) - 1) // 2])  # the middle of a plateau is the safest place on it
    model = _fit(features, labels, solver, DECAYS[best], seed)
    return LinearProbe(model, solver, DECAYS[best], float(accuracies[best]), int(held_out.sum()))


def choose_held_out(
    labels: np.ndarray, groups: Sequence[str | None] | None, *, seed: int
) -> np.ndarray:
    """Which videos are held out: bool [M]. A fifth of each class's groups, never all of a class.

    A group's videos go together, and count for each class that it has: a class of one group keeps it,
    and one that shares its scenes with others may get more or less than a fifth.
    """
    names = [None] * len(labels) if groups is None else groups
    own = np.array(
        [f"video {i}" if name is None else f"group {name}" for i, name in enumerate(names)]
    )
    distinct, group = np.unique(own, return_inverse=True)
    # Raw Philox output is what NumPy promises to keep.
    draws = np.random.Philox(np.random.SeedSequence(seed)).random_raw(len(distinct))
    groups_of = {label: np.unique(group[labels == label]) for label in np.unique(labels)}
    classes_of: list[list] = [[] for _ in distinct]
    for label, members in groups_of.items():
        for member in members:
            classes_of[member].append(label)
    left = {label: len(members) for label, members in groups_of.items()}
    chosen = np.zeros(len(distinct), bool)
    for label, members in groups_of.items():
        count = max(round(_HELD_OUT_FRACTION * len(members)), 1)
        for member in members[np.argsort(draws[members])]:
            if len(members) - left[label] >= count:
                break
            if not chosen[member] and all(left[other] > 1 for other in classes_of[member]):
                chosen[member] = True
                for other in classes_of[member]:
                    left[other] -= 1
    return chosen[group]


def _fit(features, labels, solver, decay, seed) -> "pipeline.Pipeline":
    # Imported here: it costs a second, and training, which imports the protocols, fits no probe.
    from sklearn import exceptions, linear_model, pipeline, preprocessing

    if solver == "lbfgs":
        # C weighs the sum of the losses against half the squared weights, `decay` their mean.
        classifier = linear_model.LogisticRegression(C=1 / (decay * len(labels)), max_iter=1000)
    else:
        classifier = linear_model.SGDClassifier(
            loss="log_loss", alpha=decay, average=True, random_state=seed, n_jobs=-1
        )
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), classifier)
    small = features.size * len(np.unique(labels)) < _ONE_THREAD_BELOW
    with (
        threadpoolctl.threadpool_limits(1 if small else None, user_api="blas"),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        model.fit(features, labels)
    for warning in caught:
        if issubclass(warning.category, exceptions.ConvergenceWarning):
            logging.warning("linear probe with decay %g: stopped before it converged", decay)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return model
