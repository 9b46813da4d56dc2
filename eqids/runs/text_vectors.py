"""Item vectors from texts: means of a pretrained Llama's hidden states."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from sklearn.covariance import ledoit_wolf_shrinkage

from eqids.cli import Counted
from eqids.config import LlamaConfig, TrainConfig
from eqids.data import Dataset
from eqids.data.batches.item_texts import tokenizer_file, tokens_of
from eqids.data.batches.tokens import ItemTokens
from eqids.model import Llama
from eqids.runs.run_tokens import check_vocab
from sharding import Placement, replicated

DEPTH = 1 / 3
"""Share of Llama's blocks that encode texts. Of SmolLM2's 30 blocks, the states after
the first 10 predict best who uses a film."""
MOST_TOKENS = 128
"""Most tokens of a text that are encoded."""
_POSITIONS = 2048
"""Approximate number of positions in a batch."""
_SHORTEST = 8
"""Positions of the shortest rows; the other compiled lengths double from there."""


class _Texts(eqx.Module):
    """Texts of similar length, a row each, after their prefix; see `Batch`."""

    tokens: Int[Array, "batch seq"]
    segment: Int[Array, "batch seq"]
    position: Int[Array, "batch seq"]


def texts_to_read(
    flags: TrainConfig,
    dataset: Dataset,
    llama: LlamaConfig,
    report: Callable[[str], None],
) -> ItemTokens | None:
    """Returns the texts that a run's item vectors start from, or None.

    Args:
        flags: the run's flags.
        dataset: the dataset of the items.
        llama: sizes of the Llama that encodes them.
        report: receives a message about items without a text, which start at zero.

    Raises:
        UserError: no item has a text, or the Llama has no tokenizer.
    """
    if flags.init_items != "text":
        return None
    path = tokenizer_file(flags.tokenizer, flags.llama_path)
    tokens = tokens_of(dataset, path, "", MOST_TOKENS, report)
    check_vocab(tokens, llama)
    missing = dataset.info.num_items - int(np.count_nonzero(tokens.length))
    if missing:
        report(f"{missing:,} of {dataset.info.num_items:,} items have no text")
    return tokens


def text_start(
    tokens: ItemTokens,
    dataset: Dataset,
    llama: Llama,
    item_width: int,
    dtype: DTypeLike,
    put: Placement,
) -> Float[np.ndarray, "cluster place item_width"]:
    """Returns where item vectors start: a Llama's vectors of texts, projected.

    Args:
        tokens: the texts, by slot.
        dataset: whose items.
        llama: a pretrained one, where `put` places it.
        item_width: size of an item's vector.
        dtype: Llama's compute dtype.
        put: places texts on devices.
    """
    vectors = principal(text_vectors(llama, tokens, dtype, put), item_width)
    return vectors.reshape(
        dataset.info.num_clusters, dataset.info.cluster_size, item_width
    )


def text_vectors(
    llama: Llama, tokens: ItemTokens, dtype: DTypeLike, put: Placement
) -> Float[np.ndarray, "slot width"]:
    """Returns a mean of Llama's hidden states over each text's tokens.

    A token's weight is proportional to its position, because later tokens attend to
    more of the text (Muennighoff 2022). States are taken after the first `DEPTH` of the
    blocks, because the last blocks specialise in predicting the next token (Skean et
    al. 2025).

    Args:
        llama: a pretrained one, where `put` places it.
        tokens: the tokens of the texts; their prefix is encoded and not averaged.
        dtype: Llama's compute dtype; the mean is float32.
        put: where texts go.

    Returns:
        float32, zeros for an item without a text.
    """
    vectors = np.zeros((len(tokens.length), llama.config.width), np.float32)
    num_texts = int(np.count_nonzero(tokens.length))
    with Counted("reading texts", num_texts, "items") as bar:
        for slots, texts in _batches(tokens):
            rows = np.asarray(_pooled(llama, put(texts), len(tokens.prompt), dtype))
            vectors[slots] = rows[: len(slots)]
            bar.update(len(slots))
    return vectors


@partial(jax.jit, static_argnums=(2, 3))
def _pooled(
    llama: Llama, texts: _Texts, prefix_length: int, dtype: DTypeLike
) -> Float[Array, "batch width"]:
    hidden = _lower(llama).hidden(
        llama.embed(texts.tokens, dtype), texts.segment, texts.position
    )
    weight = jnp.maximum(texts.position + 1 - prefix_length, 0) * texts.segment
    weight = weight / jnp.maximum(weight.sum(axis=1, keepdims=True), 1)
    return replicated(jnp.sum(weight[..., None] * hidden, axis=1))


def _lower(llama: Llama) -> Llama:
    num = max(1, round(DEPTH * llama.config.num_layers))
    blocks = jax.tree.map(lambda x: x[:num], llama.blocks)
    return eqx.tree_at(lambda m: m.blocks, llama, blocks)


def _batches(tokens: ItemTokens) -> Iterator[tuple[np.ndarray, _Texts]]:
    """Batches of few shapes, shortest texts first; spare rows are padding."""
    num_devices = jax.device_count()
    slots = np.flatnonzero(tokens.length)
    slots = slots[np.argsort(tokens.length[slots], kind="stable")]
    ends = len(tokens.prompt) + tokens.length[slots]
    seq, first = _SHORTEST, 0
    while first < len(slots):
        while ends[first] > seq:
            seq *= 2
        rows = max(1, _POSITIONS // seq)
        size = -(-rows // num_devices) * num_devices
        last = min(first + size, int(np.searchsorted(ends, seq, side="right")))
        yield slots[first:last], _rows(tokens, slots[first:last], size, seq)
        first = last


def _rows(tokens: ItemTokens, slots: np.ndarray, size: int, seq: int) -> _Texts:
    token_ids, segment = np.zeros((2, size, seq), np.int32)
    for row, slot in enumerate(slots):
        start, length = tokens.first[slot], tokens.length[slot]
        text = np.concatenate([tokens.prompt, tokens.ids[start : start + length]])
        token_ids[row, : len(text)] = text
        segment[row, : len(text)] = 1
    position = np.tile(np.arange(seq, dtype=np.int32), (size, 1))
    return _Texts(jnp.asarray(token_ids), jnp.asarray(segment), jnp.asarray(position))


class Projection(NamedTuple):
    """Principal axes of vectors, for these vectors and for later ones."""

    mean: Float[np.ndarray, " encoding"]
    axes: Float[np.ndarray, "num encoding"]

    @staticmethod
    def of(vectors: Float[np.ndarray, "item encoding"], num: int) -> "Projection":
        """Returns the principal axes of vectors, the largest first.

        Each axis is oriented so that its largest entry is positive: equal vectors give
        equal axes.

        Args:
            vectors: zeros for an item without a text, which does not count.
            num: axes to keep; those past the number of dimensions are zeros.
        """
        texts = vectors[vectors.any(axis=1)]
        mean = texts.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = _directions(texts, mean)
        _, found = np.linalg.eigh(centred.T @ centred)
        found = found[:, ::-1][:, :num].T
        largest = np.abs(found).argmax(axis=1)
        found *= np.sign(found[np.arange(len(found)), largest])[:, None]
        axes = np.zeros((num, len(mean)), np.float32)
        axes[: len(found)] = found
        return Projection(mean, axes)

    def whitened(self, vectors: Float[np.ndarray, "item encoding"]) -> "Projection":
        """Returns axes along which the vectors vary equally.

        Few axes have most of a Llama's variance, and they say little about the item
        (Su et al. 2021). Variances are shrunk towards their mean by the estimate of
        Ledoit and Wolf (2004), so that few vectors are changed little.

        Args:
            vectors: those that the axes were made of.
        """
        centred = _directions(vectors[vectors.any(axis=1)], self.mean)
        shrinkage = ledoit_wolf_shrinkage(centred, assume_centered=True)
        power = np.square(centred @ self.axes.T).mean(axis=0)
        power += shrinkage * (np.square(centred).mean() - power)
        scale = np.where(power > 0, power, 1) ** -0.5
        return self._replace(axes=(self.axes * scale[:, None]).astype(np.float32))

    def __call__(
        self, vectors: Float[np.ndarray, "item encoding"]
    ) -> Float[np.ndarray, "item num"]:
        """Returns centred vectors along the axes.

        Centred vectors are scaled to length 1, so that their directions count.

        Args:
            vectors: zeros for an item without a text; these stay zeros.
        """
        texts = vectors.any(axis=1)
        out = np.zeros((len(vectors), len(self.axes)), np.float32)
        out[texts] = _directions(vectors[texts], self.mean) @ self.axes.T
        return out


def principal(
    vectors: Float[np.ndarray, "item encoding"], num: int
) -> Float[np.ndarray, "item num"]:
    """Returns vectors along their own principal axes, see `Projection`."""
    return Projection.of(vectors, num)(vectors)


def _directions(
    vectors: Float[np.ndarray, "item encoding"], mean: Float[np.ndarray, " encoding"]
) -> Float[np.ndarray, "item encoding"]:
    centred = vectors - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1)
