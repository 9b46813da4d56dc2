"""The whole model: Llama reads items and text tokens in one sequence."""

from collections.abc import Callable
from dataclasses import fields

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from eqids.config import ModelConfig
from eqids.config.slots import cluster_of, place_of
from eqids.model.adapter import LinearAdapter, MlpAdapter
from eqids.model.attention import Kernel, PrefixCache
from eqids.model.counts import Recent, SuccessorCounts
from eqids.model.likelihood import ActiveClusters, add_rows
from eqids.model.llama import Llama, dropout
from eqids.model.mixture import Mixture
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
    """

    tokens: Int[Array, "batch seq"]
    items: Int[Array, "batch seq"]
    gap: Int[Array, "batch seq"]
    segment: Int[Array, "batch seq"]
    position: Int[Array, "batch seq"]
    target: Int[Array, "batch seq"]

    @staticmethod
    def of(
        host: object, put: Callable[[np.ndarray], jax.Array] = jnp.asarray
    ) -> "Batch":
        """Returns a batch of the host (`eqids.data`'s `HostBatch`) on devices.

        Args:
            host: has NumPy arrays by the names of the fields.
            put: places an array, by default on the default device.
        """
        return Batch(**{f.name: put(getattr(host, f.name)) for f in fields(Batch)})

    @staticmethod
    def zeros(num_rows: int, seq_len: int) -> "Batch":
        """Returns a batch of zeros, for its shapes."""
        zeros = jnp.zeros((num_rows, seq_len), jnp.int32)
        return Batch(**{field.name: zeros for field in fields(Batch)})


class EqIDs(eqx.Module):
    """A Llama between item vectors and a hierarchical softmax over the catalog.

    With `successors`, the softmax is mixed with counts wherever the model answers;
    `loss` is that of the softmax alone.
    """

    llama: Llama
    input_table: Float[Array, "cluster place item_width"] | None
    input_adapter: MlpAdapter | LinearAdapter
    gap_table: Float[Array, "gaps width"]
    output_adapter: MlpAdapter | LinearAdapter
    softmax: HierarchicalSoftmax
    successors: SuccessorCounts | None
    config: ModelConfig = eqx.field(static=True)

    def __init__(
        self,
        config: ModelConfig,
        *,
        valid: Bool[np.ndarray, "cluster place"] | None = None,
        counts: Int[np.ndarray, "cluster place"] | None = None,
        vectors: Float[np.ndarray, "cluster place vector_width"] | None = None,
        llama: Llama | None = None,
        successors: SuccessorCounts | None = None,
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
            successors: counts that the softmax is mixed with; by default there are none
                yet, if the config wants some.
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
        item, llama_axis = ("item_width", c.item_width), ("width", c.llama.width)
        if c.adapter == "mlp":
            hidden = 4 * c.item_width
            self.input_adapter = MlpAdapter(item, hidden, llama_axis, key=keys[3])
            self.output_adapter = MlpAdapter(llama_axis, hidden, item, key=keys[4])
        else:
            self.input_adapter = LinearAdapter(item, llama_axis, key=keys[3])
            self.output_adapter = LinearAdapter(llama_axis, item, key=keys[4])
        self.gap_table = jnp.zeros((c.num_gaps, c.llama.width))
        if c.num_successors and successors is None:
            successors = SuccessorCounts.zeros(*sizes[:2], c.num_successors)
        self.successors = successors
        self.config = c

    def embed(
        self, batch: Batch, dtype: DTypeLike, active: ActiveClusters | None = None
    ) -> Float[Array, "batch seq width"]:
        """Returns Llama's input: adapted items with their gaps, and text tokens."""
        cluster_size = self.config.cluster_size
        table = self.softmax.table if self.input_table is None else self.input_table
        slot = jnp.maximum(batch.items, 0)
        at = cluster_of(slot, cluster_size), place_of(slot, cluster_size)
        items = lookup(table, *at)
        if active is not None:
            assert active.rows is not None, "these handles are of a softmax alone"
            items = jax.lax.stop_gradient(items) + active.rows
        items = items.astype(dtype)
        gaps = lookup(gathered(self.gap_table), batch.gap).astype(dtype)
        tokens = self.llama.embed(batch.tokens, dtype)
        is_item = (batch.items >= 0)[..., None]
        return jnp.where(is_item, self.input_adapter(items) + gaps, tokens)

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
        x = dropout(self.embed(batch, dtype, active), rate, k1)
        x = self.llama.hidden(
            x, batch.segment, batch.position, rate=rate, remat=remat, kernel=kernel,
            key=k2, prefix=prefix,
        )  # fmt: skip
        return self.output_adapter(dropout(x, rate, k3))

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

        def pick(_: tuple[()], hidden: Array, position: Array) -> Array:
            return jnp.take_along_axis(hidden, position[:, None, None], axis=1)

        hidden = self.llama.hidden(
            self.embed(batch, dtype), batch.segment, batch.position,
            prefix=prefix,
        )  # fmt: skip
        return self.output_adapter(per_shard(pick, (), hidden, position))[:, 0]

    def mixture_at(
        self, batch: Batch, position: Int[Array, " batch"]
    ) -> Mixture | None:
        """Returns what counts add to the softmax for one query of every row, if any.

        Args:
            batch: one history a row.
            position: the position of the query in each row.
        """
        if self.successors is None:
            return None
        recent = Recent.of(batch.items, batch.segment, position)
        return self.successors.mixture(recent)

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
        inputs = add_rows(inputs, gradients.cluster, batch.items, gradients.rows)
        blocks = {"table": inputs, "bias": gradients.bias}
        if self.input_table is not None:
            blocks |= {"table": gradients.table, "input_table": inputs}
        return blocks
