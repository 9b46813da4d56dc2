"""The hierarchical softmax: log P(item) = log P(cluster) + log P(item | cluster).

Two levels after Goodman 2001 (section 2) and Morin & Bengio 2005, over clusters of
equal size. Both levels are float32 log-softmaxes over valid entries only, so that
the probabilities of all items sum to 1.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from eqids.model.item_vectors import joined
from eqids.model.likelihood import (
    ActiveClusters,
    ItemArrays,
    WeightedSlots,
    Weights,
    log_likelihood,
    log_probs_of,
)
from eqids.model.scores import cluster_log_probs
from eqids.model.search import TopK, top_k
from sharding import TableShards, gathered, lookup

INIT_STD = 0.02
"""Standard deviation of new random vectors: small, so that training outweighs the
noise. On ML-100K, 0.125 makes the loss a tenth of a nat worse."""
GIVEN_STD = 0.05
"""Standard deviation of given vectors once they are scaled; 0.02 is as good."""


class HierarchicalSoftmax(eqx.Module):
    """Vectors and biases of items and clusters.

    An item's *slot* is `cluster * cluster_size + place`; places whose `valid` is
    False hold no item, and have probability zero. An item's vector is its row of
    `table`, which trains, and after it its row of `text`, which does not.
    """

    table: Float[Array, "cluster place learned_width"]
    text: Float[Array, "cluster place text_width"] | None
    bias: Float[Array, "cluster place"]
    cluster_table: Float[Array, "cluster item_width"]
    cluster_bias: Float[Array, " cluster"]
    valid: Bool[Array, "cluster place"]

    def __init__(
        self,
        num_clusters: int,
        cluster_size: int,
        item_width: int,
        *,
        valid: Bool[np.ndarray, "cluster place"] | None = None,
        counts: Int[np.ndarray, "cluster place"] | None = None,
        vectors: Float[np.ndarray, "cluster place vector_width"] | None = None,
        text: Float[Array, "cluster place text_width"] | None = None,
        key: PRNGKeyArray,
    ):
        """Starts from given or small random vectors, and biases from log popularity.

        Args:
            num_clusters: clusters, empty ones included.
            cluster_size: places in a cluster.
            item_width: size of a vector, text columns included.
            valid: which places hold an item; by default all.
            counts: how often each item is used; by default all equally often.
            vectors: where learned columns start, see `initial_table`; a cluster starts
                from the mean of its items.
            text: the text columns, or none.
            key: randomness of the vectors.
        """
        k1, k2 = jax.random.split(key)
        valid = np.ones((num_clusters, cluster_size), bool) if valid is None else valid
        counts = (
            np.zeros((num_clusters, cluster_size), int) if counts is None else counts
        )
        counts = np.where(valid, counts + 1.0, 0.0)
        totals = np.maximum(counts.sum(axis=1), 1.0)
        bias = np.log(np.maximum(counts, 1.0) / totals[:, None])
        text_width = 0 if text is None else text.shape[-1]
        shape = (num_clusters, cluster_size, item_width - text_width)
        self.table = initial_table(shape, vectors, k1)
        self.text = text
        self.bias = jnp.asarray(np.where(valid, bias, 0.0), jnp.float32)
        if vectors is None:
            shape = (num_clusters, 1, item_width)
            self.cluster_table = initial_table(shape, None, k2)[:, 0]
        else:
            items = np.maximum(valid.sum(axis=1, keepdims=True), 1)
            whole = joined(self.table, self.text, jnp.float32)
            self.cluster_table = whole.sum(axis=1, where=valid[..., None]) / items
        self.cluster_bias = jnp.asarray(np.log(totals / totals.sum()), jnp.float32)
        self.valid = jnp.asarray(valid)

    def log_prob(
        self,
        hidden: Float[Array, "*batch item_width"],
        slot: Int[Array, "*batch"],
    ) -> Float[Array, "*batch"]:
        """Returns the float32 log-probability of one slot per query.

        Work and memory grow with the number of the slots' clusters; logits of the
        whole catalog are never computed.

        Args:
            hidden: queries.
            slot: an item for each query; the result is 0 for a negative slot.
        """
        if slot.ndim == 0:
            return self.log_prob(hidden[None], slot[None])[0]
        return log_probs_of(hidden, *self._arguments(None), slot)

    def loss(
        self,
        hidden: Float[Array, "*batch item_width"],
        slot: Int[Array, "*batch"],
        active: ActiveClusters | None = None,
        weight: Float[Array, "*batch"] | None = None,
    ) -> Float[Array, ""]:
        """Returns the summed negative log-likelihood of slots, in float32.

        It equals the negative sum of `log_prob`; with gradients it takes one pass
        instead of two.

        Args:
            hidden: queries.
            slot: the target of each query; negative for none.
            active: handles that take the gradients of item vectors and biases in place
                of the tables. The loss is NaN if they lack the cluster of a slot.
            weight: the weight of each query in the sum, by default 1; not
                differentiated.
        """
        weight = jnp.ones(slot.shape) if weight is None else weight
        weight = jnp.where(slot < 0, 0.0, weight)
        return -log_likelihood(
            hidden, *self._arguments(active), WeightedSlots(slot, weight)
        )

    def handles(self, cluster: Int[Array, " active"]) -> ActiveClusters:
        """Returns handles for given clusters: zeros, split as the clusters are."""
        _, cluster_size, width = self.table.shape
        table = jnp.zeros((1, cluster_size, width), self.table.dtype)
        bias = jnp.zeros((1, cluster_size), self.bias.dtype)
        zero = jnp.zeros_like(cluster)
        return ActiveClusters(cluster, lookup(table, zero), lookup(bias, zero))

    def _arguments(self, active: ActiveClusters | None) -> tuple[Weights, ItemArrays]:
        table, bias = self.table, self.bias
        if active is not None:
            table, bias = active.table, active.bias
        read = jax.lax.stop_gradient((self.table, self.text, self.bias))
        cluster = None if active is None else active.cluster
        return (
            Weights(table, bias, self.cluster_table, self.cluster_bias),
            ItemArrays(*read, self.valid, cluster),
        )

    def cluster_log_probs(
        self, hidden: Float[Array, "*batch item_width"]
    ) -> Float[Array, "*batch cluster"]:
        """Returns the float32 log-probabilities of all clusters."""
        clusters = self.cluster_table, self.cluster_bias, self.valid
        whole = eqx.tree_at(
            lambda s: (s.cluster_table, s.cluster_bias, s.valid),
            self,
            [gathered(x) for x in clusters],
        )
        return cluster_log_probs(TableShards((), ()), whole, hidden)

    def log_probs(
        self, hidden: Float[Array, "*batch item_width"]
    ) -> Float[Array, "*batch slot"]:
        """Returns the float32 log-probabilities of all slots; -inf at empty places."""
        text = None if self.text is None else gathered(self.text)
        table = joined(gathered(self.table), text, hidden.dtype)
        logits = jnp.einsum(
            "...w,crw->...cr", hidden, table, preferred_element_type=jnp.float32
        )
        valid = gathered(self.valid)
        logits = jnp.where(valid, logits + gathered(self.bias), -jnp.inf)
        joint = self.cluster_log_probs(hidden)[..., None] + _log_softmax(logits)
        joint = jnp.where(valid, joint, -jnp.inf)
        return joint.reshape(*joint.shape[:-2], -1)

    def top_k(
        self,
        hidden: Float[Array, "*batch item_width"],
        k: int,
        *,
        exclude: Int[Array, "*batch n"] | None = None,
        allowed: Bool[Array, "cluster place"] | None = None,
        max_clusters: int | None = None,
    ) -> TopK:
        """Returns the k most probable items, exactly; see `eqids.model.search.top_k`.

        Args:
            hidden: queries.
            k: number of items; it may exceed the number of items in the catalog.
            exclude: slots not to return, per query; numbers that are no slots are
                padding.
            allowed: places that may be returned to any query, by default all.
            max_clusters: most clusters to visit; the result says whether it is exact.
        """
        return top_k(
            self, hidden, k, exclude=exclude, allowed=allowed, max_clusters=max_clusters
        )


def initial_table(
    shape: tuple[int, int, int],
    vectors: Float[np.ndarray, "cluster place vector_width"] | None,
    key: PRNGKeyArray,
) -> Float[Array, "cluster place learned_width"]:
    """Returns where the learned columns of item vectors start.

    Args:
        shape: clusters, cluster_size and learned_width.
        vectors: the vectors of the items, most important axis first (such as a
            truncated SVD of who used them), zeros for an item without one. They are
            scaled to `GIVEN_STD` and added to smaller random ones; axes past
            learned_width are left out.
        key: the key of the random vectors.
    """
    noise = INIT_STD * jax.random.normal(key, shape)
    if vectors is None:
        return noise
    given = vectors[..., : shape[-1]]
    size = np.std(given[np.any(given != 0, axis=-1)]) if given.any() else 1.0
    start = jnp.asarray(GIVEN_STD * given / size, jnp.float32)
    return (0.1 * noise).at[..., : given.shape[-1]].add(start)


def _log_softmax(logits: Float[Array, "*axes n"]) -> Float[Array, "*axes n"]:
    """Log-softmax; a row of -inf alone stays -inf instead of becoming NaN."""
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return logits - jnp.where(jnp.isfinite(total), total, 0.0)
