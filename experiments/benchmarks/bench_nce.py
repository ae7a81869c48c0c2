"""How much does one product with the whole bank save over gathering each negative's vector?

    python experiments/benchmarks/bench_nce.py

One NCE stage is everything between the heads and the next step: choosing the negatives, scores,
loss, the gradient with respect to anchor and positive, the bank's update; batch 100, K 8192, D 128.
`ours` is `TCEModel.contrast` and `MemoryBank.update`, as a training step runs them. `published`
does, statement by statement, what the released code does at every step (csiro-robotics/TCE,
loss/NCEAverage.py, class NCEAverageKineticsMining, and NCECriterion.py): similarities, those at or
above the threshold masked, top K of each row, negatives chosen row by row with their random part drawn
from a table of N weights, vectors gathered as [B, K+1, D] with the positive written into the first
place, a batched product. It is written in PyTorch, as published, where that is installed; in plain
(eager) TensorFlow; and the same compiled to a graph, which the released code is not. Goals are judged
against the first of these that is there. In its favour, the scores are those that the released code
means (it reads the bank's rows as columns).

Regimes: `random`, no row is below the threshold; `mixed`, about K/2 rows are; `hard`, more than K.
"""

import harness  # isort: skip

import functools

import numpy as np
import tensorflow as tf

from tce_tf.modeling import losses, tce_model

BATCH, NUM_NEGATIVES, WIDTH, TEMPERATURE = 100, 8192, 128, 0.07
# At the smaller and at the larger N; a mined stage has no goal at the smaller one.
PLAIN, GRAPH, TORCH = (f"published, {form}" for form in ("TensorFlow", "compiled", "PyTorch"))
GOALS = {"random": (20.0, 8.0), "mixed": (None, 2.5), "hard": (None, 2.5)}


def unit_rows(rng, count, width=WIDTH):
    """Random directions, float32 [count, width]."""
    rows = rng.standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def thresholds(num_videos: int, num_negatives: int) -> dict[str, float]:
    """A threshold for each regime, from the quantiles of a product of random unit vectors."""
    rng = np.random.default_rng(1)
    products = np.sort((unit_rows(rng, 300) @ unit_rows(rng, 3000).T).ravel())
    share = min(0.5 * num_negatives / num_videos, 1)
    return {"random": -1.0, "mixed": float(products[int(share * len(products))]), "hard": 0.3}


class Ours:
    """The stage of a training step, on given embeddings."""

    def __init__(self, bank, threshold, num_negatives):
        num_videos, width = bank.shape
        self.model = tce_model.TCEModel(
            num_videos=num_videos,
            embedding_width=width,
            objective=tce_model.Objective(
                num_negatives=num_negatives,
                temperature=TEMPERATURE,
                rotation_weight=0.0,
                mining_low=threshold,
                mining_rate=0.0,
            ),
        )
        self.model.bank.update(tf.range(num_videos), tf.constant(bank))

    @tf.function
    def stage(self, anchor, positive, video_index, step):
        """Loss, its gradients with respect to anchor and positive, and the share mined."""
        batch = tf.shape(anchor)[0]
        with tf.GradientTape() as tape:
            tape.watch([anchor, positive])
            loss, metrics = self.model.contrast(
                anchor, positive, tf.zeros([batch, 4]), tf.zeros([batch], tf.int32),
                video_index, step,
            )  # fmt: skip
        gradients = tape.gradient(loss, [anchor, positive])
        self.model.bank.update(video_index, anchor)
        return loss, *gradients, metrics["hard_negative_fraction"]


class PublishedInTensorFlow:
    """The published formulation in TensorFlow."""

    def __init__(self, bank, threshold, num_negatives):
        self.bank, self.threshold = tf.Variable(bank), threshold
        self.num_negatives, self.normalizer = num_negatives, tf.Variable(-1.0)

    def _draw(self, excluded, count):
        """Rows drawn one after another from a table of weights, excluded ones at 0."""
        weights = tf.tensor_scatter_nd_update(
            tf.ones([self.bank.shape[0]]),
            excluded[:, tf.newaxis],
            tf.zeros_like(excluded, tf.float32),
        )
        return tf.random.categorical(tf.math.log(weights)[tf.newaxis], count, dtype=tf.int32)[0]

    def _choose(self, anchor, video_index):
        num_negatives, batch = self.num_negatives, tf.shape(anchor)[0]
        negatives = tf.TensorArray(tf.int32, size=batch, element_shape=[num_negatives])
        similarity = tf.matmul(anchor, self.bank, transpose_b=True)
        similarity = tf.where(similarity >= self.threshold, -2.0, similarity)
        scores, rows = tf.math.top_k(similarity, num_negatives)
        for row in tf.range(batch):  # in eager mode a Python loop
            mined = tf.math.count_nonzero(scores[row] != -2.0, dtype=tf.int32)
            hard = rows[row, :mined]
            if mined < num_negatives:
                excluded = tf.concat([hard, video_index[row : row + 1]], axis=0)
                drawn = self._draw(excluded, num_negatives - mined)
                hard = tf.concat([hard, drawn], axis=0)
            negatives = negatives.write(row, tf.ensure_shape(hard, [num_negatives]))
        return negatives.stack()

    def stage(self, anchor, positive, video_index):
        """Loss and its gradients with respect to anchor and positive."""
        negatives = self._choose(anchor, video_index)
        num_videos = tf.cast(self.bank.shape[0], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch([anchor, positive])
            vectors = tf.gather(self.bank, negatives)  # [B, K, D]
            vectors = tf.concat([positive[:, tf.newaxis], vectors], axis=1)
            scores = tf.matmul(vectors, anchor[:, :, tf.newaxis])[:, :, 0]
            ratios = tf.exp(scores / TEMPERATURE)
            if self.normalizer < 0:
                self.normalizer.assign(tf.reduce_mean(ratios) * num_videos)
            ratios /= self.normalizer
            noise = self.num_negatives / num_videos
            log_positive = tf.math.log(ratios[:, 0] / (ratios[:, 0] + noise + losses.NCE_EPSILON))
            log_negatives = tf.math.log(noise / (ratios[:, 1:] + noise + losses.NCE_EPSILON))
            loss = -tf.reduce_mean(log_positive + tf.reduce_sum(log_negatives, axis=1))
        gradients = tape.gradient(loss, [anchor, positive])
        self.bank.scatter_update(tf.IndexedSlices(anchor, video_index))
        return loss, *gradients


class PublishedInTorch:
    """The published formulation in the framework it was published in."""

    def __init__(self, torch, bank, threshold, num_negatives):
        self.torch, self.bank = torch, torch.from_numpy(bank.copy())
        self.threshold, self.num_negatives = threshold, num_negatives
        self.normalizer = None

    def _draw(self, excluded, count):
        weights = self.torch.ones(len(self.bank))
        weights[excluded] = 0
        return self.torch.multinomial(weights, count, replacement=True)

    def _choose(self, anchor, video_index):
        torch, num_negatives = self.torch, self.num_negatives
        negatives = torch.zeros(len(anchor), num_negatives, dtype=torch.int64)
        similarity = anchor @ self.bank.T
        similarity[similarity >= self.threshold] = -2
        scores, rows = similarity.topk(k=num_negatives)
        for row in range(len(anchor)):
            mined = int((scores[row] != -2).sum())
            negatives[row, :mined] = rows[row, :mined]
            if mined < num_negatives:
                excluded = torch.cat([rows[row, :mined], video_index[row : row + 1]])
                negatives[row, mined:] = self._draw(excluded, num_negatives - mined)
        return negatives

    def stage(self, anchor, positive, video_index):
        """Loss and its gradients with respect to anchor and positive."""
        torch, batch, num_videos = self.torch, len(anchor), len(self.bank)
        anchor = torch.from_numpy(anchor).requires_grad_()
        positive = torch.from_numpy(positive).requires_grad_()
        rows = torch.from_numpy(video_index.astype(np.int64))
        with torch.no_grad():
            negatives = self._choose(anchor, rows)
        vectors = self.bank.index_select(0, negatives.view(-1)).view(batch, self.num_negatives, -1)
        vectors = torch.cat([positive[:, None], vectors], dim=1)
        ratios = (torch.bmm(vectors, anchor[:, :, None])[:, :, 0] / TEMPERATURE).exp()
        if self.normalizer is None:
            self.normalizer = ratios.mean().item() * num_videos
        ratios = ratios / self.normalizer
        noise = self.num_negatives / num_videos
        log_positive = (ratios[:, 0] / (ratios[:, 0] + noise + losses.NCE_EPSILON)).log()
        log_negatives = (noise / (ratios[:, 1:] + noise + losses.NCE_EPSILON)).log()
        loss = -(log_positive.sum() + log_negatives.sum()) / batch
        gradients = torch.autograd.grad(loss, [anchor, positive])
        self.bank.index_copy_(0, rows, anchor.detach())
        return loss.item(), *(gradient.numpy() for gradient in gradients)


def contenders(num_videos, regime, num_negatives, batch, only_ours=False):
    """The stages to time, each on its own bank, and the share that `ours` mines."""
    rng = np.random.default_rng(0)
    bank, threshold = (
        unit_rows(rng, num_videos),
        thresholds(num_videos, num_negatives)[regime],
    )
    anchor, positive = unit_rows(rng, batch), unit_rows(rng, batch)
    video_index = rng.permutation(num_videos)[:batch].astype(np.int32)
    ours = Ours(bank, threshold, num_negatives)
    tensors = tuple(map(tf.constant, (anchor, positive, video_index)))
    steps = iter(range(10**9))

    def run_ours():
        step = tf.constant(next(steps), tf.int64)
        return [value.numpy() for value in ours.stage(*tensors, step)]

    stages = {"ours": run_ours}
    if not only_ours:
        given = (bank, threshold, num_negatives)
        plain, compiled = PublishedInTensorFlow(*given), PublishedInTensorFlow(*given)
        in_graph = tf.function(compiled.stage)
        stages[PLAIN] = lambda: [value.numpy() for value in plain.stage(*tensors)]
        stages[GRAPH] = lambda: [value.numpy() for value in in_graph(*tensors)]
        if torch := _torch():
            stages[TORCH] = functools.partial(
                PublishedInTorch(torch, *given).stage, anchor, positive, video_index
            )
    share = float(run_ours()[-1])
    if not {"random": share == 0, "mixed": 0.1 < share < 0.9, "hard": share > 0.99}[regime]:
        raise RuntimeError(f"regime {regime}, N {num_videos}: a share of {share} was mined")
    return stages, share


def _torch():
    try:
        import torch
    except ImportError:
        return None
    return torch


def main() -> None:
    """Times every regime at every N and prints the ratios."""
    arguments = harness.parser(__doc__).parse_args()
    batch, num_negatives = (8, 64) if arguments.quick else (BATCH, NUM_NEGATIVES)
    ratios, shares, goals = {}, {}, {}
    for size, num_videos in enumerate((500, 2000) if arguments.quick else (9537, 240_000)):
        for regime in ("random", "mixed", "hard"):
            stages, share = contenders(num_videos, regime, num_negatives, batch)
            timings = harness.interleave(stages, rounds=3 if arguments.quick else 7)
            harness.print_timings(timings, f"{regime}, N {num_videos}, {share:.0%} mined")
            name = f"{regime}_{num_videos}"
            found = {
                form: harness.ratio(timings[form], timings["ours"])
                for form in (TORCH, PLAIN, GRAPH)
                if form in timings
            }
            judged = next(iter(found))
            ratios[name] = found.pop(judged)
            ratios |= {f"{name}, {form}": ratio for form, ratio in found.items()}
            shares[name] = share
            if goal := GOALS[regime][size]:
                goals[name] = goal
    harness.finish(ratios, goals, packages=("torch",), mined=shares, judged_against=judged)


if __name__ == "__main__":
    main()
