"""How far are the embeddings from what TCE asks? NCE, InfoNCE and the rotation loss.

All scores come from one product `anchor bank^T` [B, N]: a negative's score is an entry of it, so no
[B, K, D] tensor of negative vectors is gathered and none appears in the gradient.
"""

import tensorflow as tf

# Published code's guard against log 0 (loss/NCECriterion.py).
NCE_EPSILON = 1e-7


def contrastive_scores(
    anchor: tf.Tensor, positive: tf.Tensor, similarity: tf.Tensor, negatives: tf.Tensor
) -> tf.Tensor:
    """Cosine scores of each anchor with its positive and its negatives.

    Args:
      anchor: float [B, D], unit norm.
      positive: float [B, D], unit norm.
      similarity: float [B, N], `anchor bank^T`.
      negatives: int [B, K], bank rows.

    Returns:
      float [B, 1 + K] in [-1, 1] (bank rows are of unit norm once written), the positive first.
    """
    positive_scores = tf.reduce_sum(anchor * positive, axis=1, keepdims=True)
    # TensorFlow has no DenseBincount for GPUs that repeats bit for bit, and refuses the one it has
    # where that is asked for (--deterministic=on).
    take = _take if tf.config.list_logical_devices("GPU") else _take_by_rows
    return tf.concat([positive_scores, take(similarity, negatives)], axis=1)


def _take(similarity, negatives):
    """The entries of each row [B, N] at int [B, K]."""
    # From a flat list: on a CPU 4 times the speed of a gather with batch_dims=1.
    num_anchors, num_rows = tf.unstack(tf.shape(similarity, out_type=tf.int64))
    places = tf.cast(negatives, tf.int64) + num_rows * tf.range(num_anchors)[:, tf.newaxis]
    return tf.gather(tf.reshape(similarity, [-1]), places)


@tf.custom_gradient
def _take_by_rows(similarity, negatives):
    """The same, with a gradient that is written a row at a time.

    On a CPU that is 5 times the speed of the segment sum of a gather's own gradient, and it has a
    fixed order.
    """
    num_rows = tf.shape(similarity)[1]

    def gradient(of_scores):
        of_rows = tf.raw_ops.DenseBincount(
            input=tf.cast(negatives, tf.int32), size=num_rows, weights=of_scores
        )
        return of_rows, None

    return _take(similarity, negatives), gradient


def mean_exponential(scores: tf.Tensor, temperature: float) -> tf.Tensor:
    """The batch mean of exp(s / T) over [B, 1 + K] scores: Z / N. Carries no gradient."""
    return tf.reduce_mean(tf.exp(tf.stop_gradient(scores) / temperature))


def nce_loss(
    scores: tf.Tensor, normalizer: tf.Tensor, num_videos: int, temperature: float
) -> tf.Tensor:
    """Noise-contrastive estimation against uniform noise (TCE eq. 3; Wu et al. 2018, eq. 5-7).

    With h = exp(s / T) / Z, m = K and noise probability Pn = 1 / N,

        loss = -mean_b [ log h+ / (h+ + m Pn + eps) + sum_k log m Pn / (h-_k + m Pn + eps) ]

    Args:
      scores: float [B, 1 + K], the positive first.
      normalizer: scalar Z, taken as a constant.
      num_videos: N.
      temperature: T.

    Returns:
      Scalar of the scores' dtype.
    """
    num_negatives = tf.cast(tf.shape(scores)[1] - 1, scores.dtype)
    noise = num_negatives / tf.cast(num_videos, scores.dtype)
    model = tf.exp(scores / temperature) / tf.stop_gradient(normalizer)
    positive = model[:, 0]  # once: three gradients of `model` would be added in no fixed order
    log_positive = tf.math.log(positive / (positive + noise + NCE_EPSILON))
    log_negatives = tf.math.log(noise / (model[:, 1:] + noise + NCE_EPSILON))
    return -tf.reduce_mean(log_positive + tf.reduce_sum(log_negatives, axis=1))


def info_nce_loss(scores: tf.Tensor, temperature: float) -> tf.Tensor:
    """InfoNCE (van den Oord et al. 2018): cross-entropy of picking the positive by softmax(s / T).

    Args:
      scores: float [B, 1 + K], the positive first.
      temperature: T.
    """
    picked = tf.zeros([tf.shape(scores)[0]], tf.int32)
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=picked, logits=scores / temperature)
    )


def rotation_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of the rotation classifier: logits [B, 4], labels int [B] in 0..3."""
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )
