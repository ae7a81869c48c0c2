"""What does one evaluation score? Every protocol asked, on features extracted once."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from tce_tf import errors
from tce_tf.data import shard_reader
from tce_tf.evaluation import (
    coherence,
    confusion,
    few_shot,
    knn,
    linear_probe,
    retrieval,
    top_k,
    video_features,
)

PROTOCOLS = ("knn", "linear", "retrieval", "few_shot", "coherence")
# Share of the test videos that may be in train, frame by frame: data sets have a few duplicates.
_MAX_DUPLICATES = 0.01


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is scored, and how.

    Attributes:
      protocols: of `PROTOCOLS`.
      representation: features (before the projection head) or embeddings (after it).
      frames_per_video: evenly spaced frames averaged for a video.
      knn_k: neighbours that vote.
      linear_solver: of `linear_probe.SOLVERS`.
      shots: videos a class for few_shot.
      few_shot_draws: how often they are drawn.
      coherence_frames: consecutive frames of a video that coherence looks at.
      coherence_videos: at most so many test videos for it; None takes all.
      seed: of few_shot's draws and of the part that the linear probe holds out.
    """

    protocols: Sequence[str] = ("knn",)
    representation: str = "features"
    frames_per_video: int = video_features.FRAMES_PER_VIDEO
    knn_k: int = 1
    linear_solver: str = "auto"
    shots: Sequence[int] = (1, 5, 10, 20)
    few_shot_draws: int = 10
    coherence_frames: int = 33
    coherence_videos: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
      scores: `knn.top1`, `retrieval.r5`, `few_shot.5.mean`, ... -> number; `per_class`, `per_dataset`,
        `coherence_per_dataset`: name -> figure -> number; `linear` and `few_shot.skipped`: how these
        came about.
      confusion: `knn`, `linear` -> int64 [C, C], row = true class; of the protocols asked.
      test_vectors: float32 [V, F], the test videos as they were scored; None for coherence alone.
    """

    scores: dict
    confusion: dict[str, np.ndarray]
    test_vectors: np.ndarray | None = None


def evaluate(
    encoder,
    *,
    train: shard_reader.ShardReader | None,
    test: shard_reader.ShardReader,
    settings: Settings,
    show_progress: bool = False,
) -> Result:
    """Scores an encoder.

    Args:
      encoder: as in `video_features.extract`.
      train: labelled videos that vote, train the probe and are the gallery; None when only coherence is
        asked, which needs no labels.
      test: the videos that are scored.
      settings: what to score.
      show_progress: a bar on a terminal, log lines otherwise.

    Raises:
      errors.UserError: unlabelled shards, other classes in train than in test, a group in both.
    """
    scores: dict = {}
    matrices: dict[str, np.ndarray] = {}
    test_vectors = None
    if set(settings.protocols) - {"coherence"}:
        check_labelled(train, test)
        scores, matrices, test_vectors = _score_labelled(
            encoder, train, test, settings, show_progress
        )
    if "coherence" in settings.protocols:
        runs = video_features.extract_runs(
            encoder,
            test,
            run_frames=settings.coherence_frames,
            max_videos=settings.coherence_videos,
            show_progress=show_progress,
        )
        runs = runs[settings.representation]
        figures = coherence.coherence_figures(runs)
        scores |= {f"coherence.{name}": value for name, value in figures.items()}
        parts = datasets(test)
        if parts and settings.coherence_videos is None:
            scores["coherence_per_dataset"] = {
                name: coherence.coherence_figures([runs[i] for i in np.flatnonzero(inside)])
                for name, inside in parts.items()
            }
    return Result(scores, matrices, test_vectors)


def _score_labelled(encoder, train, test, settings, show_progress) -> tuple[dict, dict, np.ndarray]:
    found = [
        video_features.extract(
            encoder,
            reader,
            frames_per_video=settings.frames_per_video,
            show_progress=show_progress,
        )
        for reader in (train, test)
    ]
    train_features, test_features = (getattr(x, settings.representation) for x in found)
    names, labels = train.class_names, test.labels
    hits: dict[str, np.ndarray] = {}
    rankings: dict[str, np.ndarray] = {}
    scores: dict = {}
    if "knn" in settings.protocols:
        rankings["knn"] = knn.knn_rank_classes(
            train_features, train.labels, test_features=test_features, k=settings.knn_k
        )
    if "linear" in settings.protocols:
        probe = linear_probe.fit_linear_probe(
            train_features,
            train.labels,
            groups=train.groups,
            solver=settings.linear_solver,
            seed=settings.seed,
        )
        rankings["linear"] = probe.rank_classes(test_features)
        scores["linear"] = {
            name: getattr(probe, name)
            for name in ("solver", "decay", "held_out_top1", "num_held_out")
        }
    for name, ranking in rankings.items():
        hits |= {f"{name}.top{k}": x for k, x in top_k.hits(ranking, labels, (1, 5)).items()}
    if "retrieval" in settings.protocols:
        recalled = retrieval.retrieval_hits(
            train_features, train.labels, query_features=test_features, query_labels=labels
        )
        hits |= {f"retrieval.r{k}": x for k, x in recalled.items()}
    scores |= {name: float(hit.mean()) for name, hit in hits.items()}
    if "few_shot" in settings.protocols:
        found_shots, by_video = _few_shot(train_features, train, test_features, test, settings)
        scores |= found_shots
        hits |= by_video
    classes = {name: labels == label for label, name in enumerate(names)}
    scores["per_class"] = top_k.table(hits, classes)
    scores["per_dataset"] = top_k.table(hits, datasets(test))
    matrices = {
        name: confusion.confusion_matrix(labels, ranking[:, 0], len(names))
        for name, ranking in rankings.items()
    }
    return scores, matrices, test_features


def _few_shot(train_features, train, test_features, test, settings) -> tuple[dict, dict]:
    """Figures by number of shots, and their means by test video.

    A number that some class cannot give is left out, with the reason.
    """
    rarest, videos = few_shot.rarest_class(train.labels)
    scores: dict = {}
    by_video, skipped = {}, {}
    for shots in settings.shots:
        if shots > videos:
            reason = f"{train.class_names[rarest]} has {videos} training videos"
            logging.warning("few_shot with %d shots is left out: %s", shots, reason)
            skipped[str(shots)] = reason
            continue
        found = few_shot.few_shot_accuracy(
            train_features,
            train.labels,
            test_features=test_features,
            test_labels=test.labels,
            shots=shots,
            draws=settings.few_shot_draws,
            seed=settings.seed,
        )
        scores[f"few_shot.{shots}.mean"] = found.mean
        scores[f"few_shot.{shots}.std"] = found.std
        by_video[f"few_shot.{shots}.mean"] = found.by_video
    return scores | ({"few_shot.skipped": skipped} if skipped else {}), by_video


def datasets(reader) -> dict[str, np.ndarray]:
    """Name -> which videos; a data set is the first part of a name of three, `ucf101/Punch/v_...`."""
    first = np.array([name.split("/")[0] if name.count("/") > 1 else "" for name in reader.names])
    return {str(name): first == name for name in np.unique(first) if name}


def average(results: Mapping[str, dict]) -> dict:
    """One set of scores for several splits.

    Args:
      results: split -> its `Result.scores`.

    Returns:
      Every number as its mean over the splits, those of classes and data sets too, over the splits
      that have them; a number that a split lacks is left out elsewhere. `std`: name -> sample
      standard deviation over the splits. `splits`: the results.
    """
    scores = list(results.values())
    shared = [
        name
        for name, value in scores[0].items()
        if isinstance(value, float) and all(name in other for other in scores)
    ]
    columns = {name: [score[name] for score in scores] for name in shared}
    combined: dict = {name: float(np.mean(column)) for name, column in columns.items()}
    for part in ("per_class", "per_dataset", "coherence_per_dataset"):
        if part in scores[0]:
            combined[part] = _average_parts([score[part] for score in scores])
    combined["std"] = {name: float(np.std(column, ddof=1)) for name, column in columns.items()}
    return combined | {"splits": dict(results)}


def _average_parts(tables: Sequence[dict]) -> dict:
    """Part -> figure -> mean over the tables that have the part, if all of these have the figure."""
    parts: dict[str, list[dict]] = {}
    for table in tables:
        for name, figures in table.items():
            parts.setdefault(name, []).append(figures)
    return {
        name: {
            figure: float(np.mean([figures[figure] for figures in found]))
            for figure in found[0]
            if all(figure in figures for figures in found)
        }
        for name, found in parts.items()
    }


def check_labelled(
    train: shard_reader.ShardReader, test: shard_reader.ShardReader, *, is_quiet: bool = False
) -> None:
    """Refuses what would make a score meaningless.

    Args:
      train: the videos that are known.
      test: the videos that are scored.
      is_quiet: says nothing of videos whose leakage cannot be told.

    Raises:
      errors.UserError: no or unlabelled videos, different class lists, or groups or more than 1 % of
        the test videos on both sides.
    """
    for reader in (train, test):
        where = ",".join(reader.folders)
        if not reader.names:
            raise errors.UserError(f"{where}: holds no video: make the shards again")
        if not reader.class_names or np.any(reader.labels < 0):
            raise errors.UserError(f"{where}: has videos without a label, evaluation needs all")
    if train.class_names != test.class_names:
        raise errors.UserError(
            f"{','.join(train.folders)} and {','.join(test.folders)} have different class lists: "
            "make both with the same --split_dir"
        )
    unknown = sum(not group for reader in (train, test) for group in reader.groups)
    if unknown and not is_quiet:
        logging.warning(
            "%d videos have no known group: of these only exact copies are seen as leakage", unknown
        )
    shared = {g for g in train.groups if g} & {g for g in test.groups if g}
    if shared:
        raise errors.UserError(
            f"leakage: {len(shared)} groups are in both train and test, such as {min(shared)}: make "
            "both from one split (--subset=train, --subset=test)"
        )
    known = set(train.checksums)
    copies = [n for n, c in zip(test.names, test.checksums, strict=True) if c in known]
    if len(copies) > _MAX_DUPLICATES * len(test.names):
        raise errors.UserError(
            f"leakage: {len(copies)} of {len(test.names)} test videos are in train, such as "
            f"{copies[0]}: make both from one split (--subset=train, --subset=test)"
        )
    if copies and not is_quiet:
        logging.warning("%d test videos are in train as well, such as %s", len(copies), copies[0])
