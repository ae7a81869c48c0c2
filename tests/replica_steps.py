"""Two float64 steps of a tiny TCE model on every logical CPU device, saved for test_replicas.py.

python tests/replica_steps.py <number of devices> <output.npz>
"""

import sys

import numpy as np
import tensorflow as tf

from tce_tf import compat
from tce_tf.modeling import losses, resnet, tce_model
from tce_tf.training import optimizers, schedules, strategies

SIZE, BATCH, VIDEOS, STEPS = 32, 8, 24, 2

# Two blocks: what is tested is how replicas share, and each replica is traced on its own.
resnet.STAGES.setdefault("tiny", ((1, 1), False))


def make_model(
    objective=None,
    *,
    learning_rate=0.01,
    dtype="float64",
    optimizer=None,
    loss_scale=None,
    **kwargs,
):
    model = tce_model.TCEModel(
        "tiny",
        num_videos=VIDEOS,
        embedding_width=16,
        objective=objective or tce_model.Objective(num_negatives=6, total_steps=10),
        dtype=dtype,
        **{"jit": False} | kwargs,
    )
    model.initialize(SIZE)
    optimizer = optimizer or optimizers.SGD(
        schedules.Schedule(learning_rate), coupled_weight_decay=1e-4
    )
    if loss_scale:
        optimizer = compat.LossScaleOptimizer(optimizer, initial_scale=loss_scale)
    compat.build_optimizer(optimizer, model.optimized_weights)
    model.compile(optimizer=optimizer)
    return model


def views(step):
    """A batch of noise with a mean and a scale of its own for each image, so that batches matter."""
    rng = np.random.default_rng(step)
    shape = (BATCH, SIZE, SIZE, 3)
    batch = {
        name: rng.uniform(0.5, 2, (BATCH, 1, 1, 1)) * rng.standard_normal(shape)
        + rng.uniform(-1, 1, (BATCH, 1, 1, 3))
        for name in ("anchor", "positive", "rotated")
    }
    return batch | {
        "rotation_label": rng.integers(0, 4, BATCH).astype(np.int32),
        "video_index": rng.permutation(VIDEOS)[:BATCH],
    }


def statistics(model):
    """Moving means and variances of all batch norms."""
    return model.backbone.non_trainable_weights + model.rotation.non_trainable_weights


def train(strategy, *, batches=views, jit_step=False, **options):
    """Trains `STEPS` steps, each global batch (of `batches(step)`) cut among the replicas.

    Returns:
      `logs` [steps, logged scalars], `bank` [replicas, N, D], `weights` [replicas, all weights] and
      `statistics` [replicas, all moving statistics]; `start` [all weights] before the first step and
      `steps`, how many the optimizer has counted.
    """
    with strategy.scope():
        model = make_model(jit_step=jit_step, **options)
    start = [tf.convert_to_tensor(w).numpy().ravel() for w in model.trainable_weights]
    share = BATCH // strategy.num_replicas_in_sync
    step = tf.function(
        lambda batch: strategy.run(model.train_step, args=(batch,)), jit_compile=jit_step or None
    )
    logs = []
    for number in range(STEPS):
        batch = batches(number)

        def slice_of(context, batch=batch):
            start = context.replica_id_in_sync_group * share
            return {name: tf.constant(x[start : start + share]) for name, x in batch.items()}

        made = step(strategy.experimental_distribute_values_from_function(slice_of))
        copies = [
            [float(copy) for copy in strategy.experimental_local_results(made[name])]
            for name in sorted(made)
        ]
        for values in copies:
            assert len(set(values)) == 1, values
        logs.append([values[0] for values in copies])

    def flat(weights):
        copies = [strategy.experimental_local_results(compat.tf_variable(w)) for w in weights]
        return np.stack(
            [np.concatenate([w.numpy().ravel() for w in ws]) for ws in zip(*copies, strict=True)]
        )

    bank = strategy.experimental_local_results(compat.tf_variable(model.bank.embeddings))
    return {
        "logs": np.array(logs),
        "bank": np.stack([copy.numpy() for copy in bank]),
        "weights": flat(model.trainable_weights),
        "statistics": flat(statistics(model)),
        "start": np.concatenate(start),
        "steps": int(tf.convert_to_tensor(model.optimizer.iterations)),
    }


def oracle(replicas):
    """What `train` should give where each replica, or part of a batch, has its own batch norm.

    Computed by one replica, eagerly, with the slices normalised one after the other.
    """
    model = make_model()
    objective, logged = model.objective, []
    kept = [compat.tf_variable(w) for w in statistics(model)]
    share = BATCH // replicas
    for step in range(STEPS):
        batch = views(step)
        before, moved = [w.numpy() for w in kept], []
        with tf.GradientTape() as tape:
            outputs = []
            for start in range(0, BATCH, share):
                for weight, value in zip(kept, before, strict=True):
                    weight.assign(value)
                x = {name: value[start : start + share] for name, value in batch.items()}
                anchor = model(x["anchor"], training=True)["embeddings"]
                positive = model(x["positive"], training=True)["embeddings"]
                features = model.backbone(x["rotated"], training=True)
                outputs.append((anchor, positive, model.rotation(features, training=True)))
                moved.append([w.numpy() for w in kept])
            anchor, positive, logits = (tf.concat(x, axis=0) for x in zip(*outputs, strict=True))
            similarity = tf.matmul(anchor, model.bank.lookup(), transpose_b=True)
            negatives, _ = model.contrast.choose_negatives(similarity, batch["video_index"], step)
            scores = losses.contrastive_scores(anchor, positive, similarity, negatives)
            if step == 0:
                z = tf.reduce_mean(tf.exp(scores / objective.temperature)) * VIDEOS
            nce = losses.nce_loss(scores, z, VIDEOS, objective.temperature)
            loss = nce + losses.rotation_loss(logits, batch["rotation_label"])
        weights = [compat.tf_variable(w) for w in model.trainable_weights]
        model.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), model.trainable_weights, strict=True)
        )
        for weight, *values in zip(kept, *moved, strict=True):
            weight.assign(np.mean(values, axis=0))
        model.bank.update(batch["video_index"], anchor)
        logged.append((float(loss), float(nce)))
    return {
        "loss": logged,
        "bank": model.bank.lookup().numpy(),
        "weights": np.concatenate([w.numpy().ravel() for w in weights]),
        "statistics": np.concatenate([w.numpy().ravel() for w in kept]),
    }


def main(num_devices, output):
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * num_devices,
    )
    strategy = strategies.make_strategy("mirrored")
    assert strategy.num_replicas_in_sync == num_devices
    arrays = {}
    for sync in (False, True):
        made = train(strategy, sync_batch_norm=sync)
        arrays |= {f"{name}/{int(sync)}": value for name, value in made.items()}
    np.savez(output, **arrays)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
