"""T5's span corruption (Raffel et al. 2020) as seqio tasks have it, on one thread.

`t5_functions` are those of the t5 package; `own_functions` do the same and are written for this
comparison, for where that package is not installed. Both can be run in two ways: `task_batches`
reads records from disk through a seqio task and its feature converter, as training does;
`memory_batches` has tokens in memory and runs the corruption alone.

N = round(density n) tokens are noise, in S = round(N / mean_span) spans. Noise and the rest are
cut into S parts each, uniformly among all ways to do so; the parts alternate, the rest first. In
the inputs every noise span becomes a sentinel, in the targets every other span; sentinels run
down from the last id, and </s> ends both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from benchmarks.material import SEQUENCE_LENGTH

DENSITY, MEAN_SPAN = 0.15, 3.0
_SHUFFLED = 1000  # seqio's own default

Step = Callable[..., tf.data.Dataset]


def own_functions(vocab_size: int) -> list[Step]:
    """Preprocessors from {'targets'} to {'inputs', 'targets'}."""

    @seqio.map_over_dataset(num_seeds=2)
    def corrupt(features: dict[str, tf.Tensor], seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        tokens = features["targets"]
        noise = noise_mask(tf.size(tokens), seeds)
        return {
            "inputs": with_sentinels(tokens, noise, vocab_size),
            "targets": with_sentinels(tokens, ~noise, vocab_size),
        }

    return [corrupt]


def t5_functions(vocab_size: int, *, alone: bool) -> list[Step]:
    """The same of the t5 package; `alone` without what chooses and cuts pieces of text first."""
    from t5.data import preprocessors

    if not alone:
        return [preprocessors.span_corruption]
    return [
        functools.partial(
            preprocessors.denoise,
            output_features=_features(vocab_size),
            noise_density=DENSITY,
            noise_mask_fn=functools.partial(
                preprocessors.random_spans_noise_mask, mean_noise_span_length=MEAN_SPAN
            ),
            inputs_fn=preprocessors.noise_span_to_unique_sentinel,
            targets_fn=preprocessors.nonnoise_span_to_unique_sentinel,
        )
    ]


def task_batches(
    rows: np.ndarray, functions: Sequence[Step], vocab_size: int, batch_size: int, path: Path
) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled batches of what a seq2seq model reads.

    Args:
      rows: int32[k, n] packed tokens, written to a file of records.
      functions: of those above.
      vocab_size: number of ids.
      batch_size: examples in a batch.
      path: of the file.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            ids = tf.train.Feature(int64_list=tf.train.Int64List(value=row))
            example = tf.train.Example(features=tf.train.Features(feature={"targets": ids}))
            writer.write(example.SerializeToString())
    feature = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    task = seqio.Task(
        "benchmark",
        source=seqio.TFExampleDataSource({"train": str(path)}, {"targets": feature}),
        preprocessors=[_to_int32, *functions, seqio.preprocessors.append_eos_after_trim],
        output_features=_features(vocab_size),
    )
    lengths = {"inputs": SEQUENCE_LENGTH, "targets": SEQUENCE_LENGTH // 4}
    dataset = task.get_dataset(
        lengths, "train", shuffle_buffer_size=_SHUFFLED, seed=0, num_epochs=None
    )
    converter = seqio.EncDecFeatureConverter(pack=False)
    return _one_thread(converter(dataset, lengths).batch(batch_size))


def memory_batches(
    rows: np.ndarray, functions: Sequence[Step], batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {'inputs', 'targets'} in order, from tokens int32[k, n] in memory."""
    dataset = tf.data.Dataset.from_tensor_slices({"targets": rows.astype(np.int32)}).repeat()
    for function in functions:
        dataset = function(dataset)
    return _one_thread(dataset.padded_batch(batch_size))


def noise_mask(size: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """bool[size], True where a token is noise.

    Args:
      size: number of tokens, 2 or more.
      seeds: int32[2, 2].
    """
    noise = tf.cast(tf.round(tf.cast(size, tf.float32) * DENSITY), tf.int32)
    noise = tf.clip_by_value(noise, 1, size - 1)
    spans = tf.cast(tf.round(tf.cast(noise, tf.float32) / MEAN_SPAN), tf.int32)
    spans = tf.maximum(spans, 1)
    parts = [_composition(size - noise, spans, seeds[0]), _composition(noise, spans, seeds[1])]
    lengths = tf.reshape(tf.stack(parts, axis=1), [2 * spans])
    borders = tf.cumsum(lengths)[:-1]
    border_marks = tf.scatter_nd(borders[:, None], tf.ones_like(borders), [size])
    return tf.cumsum(border_marks) % 2 == 1


def with_sentinels(tokens: tf.Tensor, hidden: tf.Tensor, vocab_size: int) -> tf.Tensor:
    """int32: the tokens, every run that is `hidden` replaced by the next sentinel."""
    before = tf.concat([[False], hidden[:-1]], axis=0)
    first = hidden & ~before
    sentinels = vocab_size - tf.cumsum(tf.cast(first, tokens.dtype))
    return tf.boolean_mask(tf.where(first, sentinels, tokens), first | ~hidden)


def _composition(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """int32[parts], positive, that sum to `total`; all equally likely."""
    starts = tf.cast(tf.range(total - 1) < parts - 1, tf.int32)
    starts = tf.random.experimental.stateless_shuffle(starts, seed)
    part = tf.cumsum(tf.concat([[0], starts], axis=0))
    return tf.math.unsorted_segment_sum(tf.ones_like(part), part, parts)


def _features(vocab_size: int) -> dict[str, seqio.Feature]:
    vocabulary = seqio.PassThroughVocabulary(vocab_size, eos_id=2)
    return {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}


def _to_int32(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda example: {n: tf.cast(t, tf.int32) for n, t in example.items()})


def _one_thread(dataset: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options).as_numpy_iterator()
