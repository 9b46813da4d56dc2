"""The whole model: Llama reads items and text tokens in one sequence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from eqids.config import ModelConfig
from eqids.config.slots import cluster_of, place_of
from eqids.model.adapter import IdentityAdapter, LinearAdapter, MlpAdapter, adapters
from eqids.model.attention import Kernel, PrefixCache
from eqids.model.batch import Batch, at_position
from eqids.model.counts import SuccessorCounts
from eqids.model.item_vectors import TextAxes, TextFeatures, joined
from eqids.model.likelihood import ActiveClusters, add_rows
from eqids.model.llama import Llama, dropout
from eqids.model.mixture import Mixture
from eqids.model.skip import Skip, last_items
from eqids.model.softmax import HierarchicalSoftmax, initial_table
from sharding import gathered, like, lookup

_HIDDEN_INPUTS, _HIDDEN_TARGETS = 3, 4
"""Numbers that are folded into a step's key, for what `id_dropout` hides."""


class EqIDs(eqx.Module):
    """A Llama between item vectors and a hierarchical softmax over the catalog.

    With `successors`, the softmax is mixed with counts wherever the model answers;
    `loss` is that of the softmax alone.
    """

    llama: Llama
    input_table: Float[Array, "cluster place learned_width"] | None
    input_adapter: MlpAdapter | LinearAdapter | IdentityAdapter
    gap_table: Float[Array, "gaps width"]
    request_table: Float[Array, "gaps width"] | None
    output_adapter: MlpAdapter | LinearAdapter | IdentityAdapter
    skip: Skip | None
    softmax: HierarchicalSoftmax
    text_axes: TextAxes | None
    successors: SuccessorCounts | None
    config: ModelConfig = eqx.field(static=True)

    def __init__(
        self,
        config: ModelConfig,
        *,
        valid: Bool[np.ndarray, "cluster place"] | None = None,
        counts: Int[np.ndarray, "cluster place"] | None = None,
        vectors: Float[np.ndarray, "cluster place vector_width"] | None = None,
        text: TextFeatures | None = None,
        llama: Llama | None = None,
        successors: SuccessorCounts | None = None,
        key: PRNGKeyArray,
    ):
        """Starts from random weights, and biases from log popularity.

        Args:
            config: the sizes.
            valid: which places hold an item; by default all.
            counts: how often each item is used; by default all equally often.
            vectors: where learned columns of items start, see `initial_table`.
            text: the text columns of items; zeros by default, if the config has any.
            llama: a pretrained Llama, by default a random one. The model predicts no
                text, so it drops `lm_head`.
            successors: counts that the softmax is mixed with; by default there are none
                yet, if the config wants some.
            key: randomness of the weights.
        """
        c, keys = config, jax.random.split(key, 5)
        places = (c.num_clusters, c.cluster_size)
        llama = Llama(c.llama, key=keys[0]) if llama is None else llama
        llama = llama.headless()
        if c.lora is not None:
            k = jax.random.fold_in(keys[0], 1)
            blocks = llama.blocks.with_lora(c.lora, key=k)
            llama = eqx.tree_at(lambda m: m.blocks, llama, blocks)
        self.llama = llama
        columns, self.text_axes = None, None
        if text is not None:
            columns, self.text_axes = jnp.asarray(text.columns), TextAxes.of(text)
        elif c.text_width:
            columns = jnp.zeros((*places, c.text_width))
            self.text_axes = TextAxes.zeros(c.text_width, c.encoding_width)
        self.softmax = HierarchicalSoftmax(
            *places, c.item_width, valid=valid, counts=counts, vectors=vectors,
            text=columns, key=keys[1],
        )  # fmt: skip
        self.input_table = (
            None
            if c.tied_items
            else initial_table((*places, c.learned_width), vectors, keys[2])
        )
        self.input_adapter, self.output_adapter = adapters(c, keys[3], keys[4])
        table = self.softmax.table if self.input_table is None else self.input_table
        self.skip = Skip(table, columns, self.softmax.valid) if c.skip else None
        self.gap_table = jnp.zeros((c.num_gaps, c.llama.width))
        self.request_table = (
            jnp.zeros((c.num_gaps, c.llama.width)) if c.request_time else None
        )
        if c.num_successors and successors is None:
            successors = SuccessorCounts.zeros(*places, c.num_successors)
        self.successors = successors
        self.config = c

    def item_vectors(
        self,
        slot: Int[Array, "batch seq"],
        dtype: DTypeLike,
        active: ActiveClusters | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch seq item_width"]:
        """Returns the vectors of input items; any vector at a negative slot.

        Args:
            slot: slots of items.
            dtype: of the vectors.
            active: handles that take the gradient of their learned columns.
            key: hides the learned columns of a share `id_dropout` of the items that
                have a text; without it none.
        """
        cluster_size = self.config.cluster_size
        table = self.softmax.table if self.input_table is None else self.input_table
        real = jnp.maximum(slot, 0)
        at = cluster_of(real, cluster_size), place_of(real, cluster_size)
        learned = lookup(table, *at)
        if active is not None:
            assert active.rows is not None, "these handles are of a softmax alone"
            learned = jax.lax.stop_gradient(learned) + active.rows
        if self.softmax.text is None:
            return joined(learned, None, dtype)
        text = lookup(jax.lax.stop_gradient(self.softmax.text), *at)
        hidden = self._hidden(slot, key)
        if hidden is not None:
            hidden &= jnp.any(text != 0, axis=-1)
            learned = jnp.where(hidden[..., None], 0.0, learned)
        return joined(learned, text, dtype)

    def _hidden(
        self, slot: Int[Array, "batch seq"], key: PRNGKeyArray | None
    ) -> Bool[Array, "batch seq"] | None:
        """Draws the positions at which learned columns are hidden, if any are."""
        rate = self.config.id_dropout
        if key is None or rate == 0.0 or self.softmax.text is None:
            return None
        return jax.random.bernoulli(key, rate, slot.shape, out_sharding=like(slot))

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
        unroll: bool = False,
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
            unroll: compile Llama's blocks one by one, see `Llama.hidden`.
            kernel: the kernel of the attention.
            key: randomness of the dropout; without it nothing is dropped.
            active: handles that take the gradient of input items, see `handles`.
            prefix: the keys and values of the tokens that every history begins with, if
                rows lack them.
        """
        rate = self.config.dropout
        k1, k2, k3 = (None,) * 3 if key is None else jax.random.split(key, 3)
        hides = None if key is None else jax.random.fold_in(key, _HIDDEN_INPUTS)
        slot = last_items(batch.items, batch.segment)
        items = self.item_vectors(slot, dtype, active, hides)
        x = dropout(self.embed(batch, items), rate, k1)
        x = self.llama.hidden(
            x, batch.segment, batch.position, rate=rate, remat=remat, unroll=unroll,
            kernel=kernel, key=k2, prefix=prefix,
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
        query = self.output_adapter(at_position(hidden, position))
        if self.skip is not None:
            query = self.skip(
                query, at_position(items, position), at_position(slot, position)
            )
        return query[:, 0]

    def lifted(
        self,
        query: Float[Array, "batch item_width"],
        recent: Int[Array, "batch recent"],
    ) -> Float[Array, "batch item_width"]:
        """Returns the queries that the model answers by: with the lift of the texts.

        Args:
            query: from `queries_at`.
            recent: from `recent_items`, at the position of each query.
        """
        if self.skip is None or self.softmax.text is None:
            return query
        return self.skip.lifted(query, self.softmax.text, recent[:, 0])

    def mixture(
        self,
        query: Float[Array, "batch item_width"],
        recent: Int[Array, "batch recent"],
    ) -> Mixture | None:
        """Returns what counts add to the softmax for queries, if there are any counts.

        Args:
            query: from `queries_at`, lifted.
            recent: from `recent_items`, at the position of each query.
        """
        if self.successors is None:
            return None
        return self.successors.mixture(recent, query, self.softmax)

    def loss(
        self,
        batch: Batch,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        unroll: bool = False,
        kernel: Kernel = "xla",
        key: PRNGKeyArray | None = None,
        active: ActiveClusters | None = None,
        prefix: PrefixCache | None = None,
    ) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """Returns the summed negative log-likelihood of the targets, and their number.

        Their quotient is the mean over targets, even after both were summed over
        devices or steps. With `active` (from `handles`), no gradient flows to item
        tables; `table_gradients` computes it from the gradients of the handles.

        With a key, a share `id_dropout` of the targets is predicted by the text columns
        alone: the query's learned columns are zeros there.
        """
        query = self.queries(
            batch, dtype=dtype, remat=remat, unroll=unroll, kernel=kernel, key=key,
            active=active, prefix=prefix,
        )  # fmt: skip
        if key is not None:
            hides = jax.random.fold_in(key, _HIDDEN_TARGETS)
            hidden = self._hidden(batch.target, hides)
            if hidden is not None:
                learned = jnp.arange(query.shape[-1]) < self.config.learned_width
                query = jnp.where(hidden[..., None] & learned, 0.0, query)
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
