"""The whole model: Llama reads items and text tokens in one sequence."""

from collections.abc import Callable
from dataclasses import fields, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from eqids.config import ModelConfig
from eqids.config.slots import cluster_of, place_of
from eqids.model.adapter import IdentityAdapter, LinearAdapter, MlpAdapter
from eqids.model.attention import Kernel, PrefixCache
from eqids.model.likelihood import ActiveClusters, add_rows
from eqids.model.llama import Llama, dropout
from eqids.model.skip import Skip, last_items
from eqids.model.softmax import HierarchicalSoftmax, initial_table
from sharding import gathered, lookup, per_shard


class Batch(eqx.Module):
    """The input of the model and its targets.

    Attributes:
        tokens: text tokens; 0 at positions of items.
        items: slots; -1 at positions of text.
        gap: bucket of the time between an item and the one before it; 0 is unknown.
        segment: a number for each packed history of a row; 0 is padding.
        position: within the segment.
        target: the slot to predict at this position; -1 is none.
        request_gap: bucket of the time between the last event at a position that
            predicts and the request for the next item; 0 is unknown.
    """

    tokens: Int[Array, "batch seq"]
    items: Int[Array, "batch seq"]
    gap: Int[Array, "batch seq"]
    segment: Int[Array, "batch seq"]
    position: Int[Array, "batch seq"]
    target: Int[Array, "batch seq"]
    request_gap: Int[Array, "batch seq"] | None = None

    @staticmethod
    def of(
        host: object, put: Callable[[np.ndarray], jax.Array] = jnp.asarray
    ) -> "Batch":
        """Returns a batch of the host (`eqids.data`'s `HostBatch`) on devices.

        Args:
            host: has NumPy arrays by the names of the fields.
            put: places an array, by default on the default device.
        """
        arrays = {field.name: getattr(host, field.name) for field in fields(Batch)}
        return Batch(**{n: put(a) for n, a in arrays.items() if a is not None})

    @staticmethod
    def zeros(num_rows: int, seq_len: int, request_time: bool = False) -> "Batch":
        """Returns a batch of zeros, for its shapes.

        Args:
            num_rows: number of rows.
            seq_len: positions in a row.
            request_time: whether it has a `request_gap`.
        """
        zeros = jnp.zeros((num_rows, seq_len), jnp.int32)
        batch = Batch(**{field.name: zeros for field in fields(Batch)})
        return batch if request_time else replace(batch, request_gap=None)


class EqIDs(eqx.Module):
    """A Llama between item vectors and a hierarchical softmax over the catalog."""

    llama: Llama
    input_table: Float[Array, "cluster place item_width"] | None
    input_adapter: MlpAdapter | LinearAdapter | IdentityAdapter
    gap_table: Float[Array, "gaps width"]
    request_table: Float[Array, "gaps width"] | None
    output_adapter: MlpAdapter | LinearAdapter | IdentityAdapter
    skip: Skip | None
    softmax: HierarchicalSoftmax
    config: ModelConfig = eqx.field(static=True)

    def __init__(
        self,
        config: ModelConfig,
        *,
        valid: Bool[np.ndarray, "cluster place"] | None = None,
        counts: Int[np.ndarray, "cluster place"] | None = None,
        vectors: Float[np.ndarray, "cluster place vector_width"] | None = None,
        llama: Llama | None = None,
        key: PRNGKeyArray,
    ):
        """Starts from random weights, and biases from log popularity.

        Args:
            config: the sizes.
            valid: which places hold an item; by default all.
            counts: how often each item is used; by default all equally often.
            vectors: where item vectors start, see `initial_table`.
            llama: a pretrained Llama, by default a random one. The model predicts no
                text, so it drops `lm_head`.
            key: randomness of the weights.
        """
        c, keys = config, jax.random.split(key, 5)
        sizes = (c.num_clusters, c.cluster_size, c.item_width)
        llama = Llama(c.llama, key=keys[0]) if llama is None else llama
        llama = llama.headless()
        if c.lora is not None:
            k = jax.random.fold_in(keys[0], 1)
            blocks = llama.blocks.with_lora(c.lora, key=k)
            llama = eqx.tree_at(lambda m: m.blocks, llama, blocks)
        self.llama = llama
        self.softmax = HierarchicalSoftmax(
            *sizes, valid=valid, counts=counts, vectors=vectors, key=keys[1]
        )
        self.input_table = (
            None if c.tied_items else initial_table(sizes, vectors, keys[2])
        )
        self.input_adapter, self.output_adapter = _adapters(c, keys[3], keys[4])
        self.skip = Skip(self._item_table, self.softmax.valid) if c.skip else None
        self.gap_table = jnp.zeros((c.num_gaps, c.llama.width))
        self.request_table = (
            jnp.zeros((c.num_gaps, c.llama.width)) if c.request_time else None
        )
        self.config = c

    @property
    def _item_table(self) -> Float[Array, "cluster place item_width"]:
        return self.softmax.table if self.input_table is None else self.input_table

    def item_vectors(
        self,
        slot: Int[Array, "batch seq"],
        dtype: DTypeLike,
        active: ActiveClusters | None = None,
    ) -> Float[Array, "batch seq item_width"]:
        """Returns the vectors of input items; any where the slot is negative.

        Args:
            slot: slots of items.
            dtype: the dtype of activations.
            active: handles that take the gradient of the vectors, see `handles`.
        """
        cluster_size, slot = self.config.cluster_size, jnp.maximum(slot, 0)
        at = cluster_of(slot, cluster_size), place_of(slot, cluster_size)
        items = lookup(self._item_table, *at)
        if active is not None:
            assert active.rows is not None, "these handles are of a softmax alone"
            items = jax.lax.stop_gradient(items) + active.rows
        return items.astype(dtype)

    def embed(
        self,
        batch: Batch,
        items: Float[Array, "batch seq item_width"],
    ) -> Float[Array, "batch seq width"]:
        """Returns Llama's input: adapted items with their gaps, and text tokens.

        A model that reads the time of the request adds its gap at positions that
        predict; an unknown one adds nothing.

        Args:
            batch: histories.
            items: the vectors of the items; any vectors at positions of text.
        """
        gaps = lookup(gathered(self.gap_table), batch.gap).astype(items.dtype)
        tokens = self.llama.embed(batch.tokens, items.dtype)
        is_item = (batch.items >= 0)[..., None]
        x = jnp.where(is_item, self.input_adapter(items) + gaps, tokens)
        if self.request_table is not None and batch.request_gap is not None:
            asked = lookup(gathered(self.request_table), batch.request_gap)
            known = (batch.request_gap > 0)[..., None]
            x = x + jnp.where(known, asked, 0).astype(x.dtype)
        return x

    def queries(
        self,
        batch: Batch,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        kernel: Kernel = "xla",
        key: PRNGKeyArray | None = None,
        active: ActiveClusters | None = None,
        prefix: PrefixCache | None = None,
    ) -> Float[Array, "batch seq item_width"]:
        """Returns the query at every position, from which the softmax predicts an item.

        Args:
            batch: histories.
            dtype: the dtype of activations.
            remat: recompute Llama's blocks in the backward pass.
            kernel: the kernel of the attention.
            key: randomness of the dropout; without it nothing is dropped.
            active: handles that take the gradient of input items, see `handles`.
            prefix: the keys and values of the tokens that every history begins with, if
                rows lack them.
        """
        rate = self.config.dropout
        k1, k2, k3 = (None,) * 3 if key is None else jax.random.split(key, 3)
        slot = last_items(batch.items, batch.segment)
        items = self.item_vectors(slot, dtype, active)
        x = dropout(self.embed(batch, items), rate, k1)
        x = self.llama.hidden(
            x, batch.segment, batch.position, rate=rate, remat=remat, kernel=kernel,
            key=k2, prefix=prefix,
        )  # fmt: skip
        query = self.output_adapter(dropout(x, rate, k3))
        return query if self.skip is None else self.skip(query, items, slot)

    def queries_at(
        self,
        batch: Batch,
        position: Int[Array, " batch"],
        *,
        dtype: DTypeLike,
        prefix: PrefixCache | None = None,
    ) -> Float[Array, "batch item_width"]:
        """Returns one query of every row, the one at a given position.

        Args:
            batch: one history a row.
            position: the position of the query in each row, such as the history's last
                event.
            dtype: the dtype of activations.
            prefix: as for `queries`.
        """

        slot = last_items(batch.items, batch.segment)
        items = self.item_vectors(slot, dtype)
        hidden = self.llama.hidden(
            self.embed(batch, items), batch.segment, batch.position,
            prefix=prefix,
        )  # fmt: skip
        query = self.output_adapter(_at(hidden, position))
        if self.skip is not None:
            query = self.skip(query, _at(items, position), _at(slot, position))
        return query[:, 0]

    def loss(
        self,
        batch: Batch,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        kernel: Kernel = "xla",
        key: PRNGKeyArray | None = None,
        active: ActiveClusters | None = None,
        prefix: PrefixCache | None = None,
    ) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """Returns the summed negative log-likelihood of the targets, and their number.

        Their quotient is the mean over targets, even after both were summed over
        devices or steps. With `active` (from `handles`), no gradient flows to item
        tables; `table_gradients` computes it from the gradients of the handles.
        """
        query = self.queries(
            batch, dtype=dtype, remat=remat, kernel=kernel, key=key, active=active,
            prefix=prefix,
        )  # fmt: skip
        total = self.softmax.loss(query, batch.target, active)
        return total, jnp.sum(batch.target >= 0)

    def handles(self, batch: Batch, cluster: Int[Array, " active"]) -> ActiveClusters:
        """Returns handles that take the gradients of the item tables.

        Args:
            batch: the batch of the loss.
            cluster: the clusters of its items and targets, ascending; equally many for
                each shard of the tables, padded with the number of clusters.
        """
        width = self.softmax.table.shape[-1:]
        rows = lookup(jnp.zeros((1, *width)), jnp.zeros_like(batch.items))
        handles = self.softmax.handles(cluster)
        return ActiveClusters(cluster, handles.table, handles.bias, rows)

    def table_gradients(
        self, batch: Batch, gradients: ActiveClusters
    ) -> dict[str, Array]:
        """Returns the gradients of item tables, as blocks of the active clusters.

        Args:
            batch: the batch of the loss.
            gradients: the gradients of its handles, with their `cluster`.

        Returns:
            Blocks by the name of their table: "table" and "bias" of the softmax and,
            if input items have a table of their own, "input_table".
        """
        assert gradients.rows is not None, "these gradients are of a softmax alone"
        inputs = gradients.table
        if self.input_table is not None:
            inputs = jnp.zeros_like(inputs)
        slot = last_items(batch.items, batch.segment)
        inputs = add_rows(inputs, gradients.cluster, slot, gradients.rows)
        blocks = {"table": inputs, "bias": gradients.bias}
        if self.input_table is not None:
            blocks |= {"table": gradients.table, "input_table": inputs}
        return blocks


def _adapters(
    config: ModelConfig, into: PRNGKeyArray, out: PRNGKeyArray
) -> (
    tuple[IdentityAdapter, IdentityAdapter]
    | tuple[LinearAdapter, LinearAdapter]
    | tuple[MlpAdapter, MlpAdapter]
):
    """The adapter into Llama's width and the one out of it."""
    c = config
    item, llama = ("item_width", c.item_width), ("width", c.llama.width)
    if c.adapter == "identity":
        return IdentityAdapter(), IdentityAdapter()
    if c.adapter == "linear":
        return LinearAdapter(item, llama, key=into), LinearAdapter(llama, item, key=out)
    hidden = 4 * c.item_width
    return (
        MlpAdapter(item, hidden, llama, key=into),
        MlpAdapter(llama, hidden, item, key=out),
    )


def _at(
    x: Shaped[Array, "batch seq *axes"], position: Int[Array, " batch"]
) -> Shaped[Array, "batch 1 *axes"]:
    """One position of each row."""

    def pick(_: tuple[()], x: Array, position: Array) -> Array:
        at = position.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.take_along_axis(x, at, axis=1)

    return per_shard(pick, (), x, position)
