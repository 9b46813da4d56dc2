"""The hierarchical softmax: log P(item) = log P(cluster) + log P(item | cluster).

Two levels after Goodman 2001 (section 2) and Morin & Bengio 2005, over clusters of
equal room. Both levels are float32 log-softmaxes over valid entries only, so that
the probabilities of all items sum to 1.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sharding import gathered, per_shard

INIT_STD = 0.02
"""Of the vectors at the start: small, so that an item is what it is used with, and
not its noise. On ML-100K, 0.125 costs a tenth of a nat."""
KNOWN_STD = 0.05
"""Of vectors that start from what is known of the items; 0.02 to 0.05 serve as well."""
_GROUP = 16
"""Targets of one cluster that share a read of its block."""
_CHUNK_FLOATS = 2**24
"""Floats of gathered blocks held at a time (64 MiB), whatever the catalog."""


class HierarchicalSoftmax(eqx.Module):
    """Vectors and biases of items and clusters.

    An item's *slot* is `cluster * room + place`; places whose `valid` is False hold
    no item, and have probability zero.
    """

    table: Float[Array, "cluster room item_width"]
    bias: Float[Array, "cluster room"]
    cluster_table: Float[Array, "cluster item_width"]
    cluster_bias: Float[Array, " cluster"]
    valid: Bool[Array, "cluster room"]

    def __init__(
        self,
        num_clusters: int,
        room: int,
        item_width: int,
        *,
        valid: Bool[np.ndarray, "cluster room"] | None = None,
        counts: Int[np.ndarray, "cluster room"] | None = None,
        vectors: Float[np.ndarray, "cluster room vector_width"] | None = None,
        key: PRNGKeyArray,
    ):
        """Starts from given or small random vectors, and biases from log popularity.

        Args:
            num_clusters: clusters, empty ones included.
            room: places in a cluster.
            item_width: size of a vector.
            valid: which places hold an item; by default all.
            counts: how often each item is used; by default equally often.
            vectors: what is known of the items, see `initial_table`; a cluster
                starts from the mean of its items.
            key: randomness of the vectors.
        """
        k1, k2 = jax.random.split(key)
        valid = np.ones((num_clusters, room), bool) if valid is None else valid
        counts = np.zeros((num_clusters, room), int) if counts is None else counts
        counts = np.where(valid, counts + 1.0, 0.0)
        totals = np.maximum(counts.sum(axis=1), 1.0)
        bias = np.log(np.maximum(counts, 1.0) / totals[:, None])
        shape = (num_clusters, room, item_width)
        self.table = initial_table(shape, vectors, k1)
        self.bias = jnp.asarray(np.where(valid, bias, 0.0), jnp.float32)
        if vectors is None:
            shape = (num_clusters, 1, item_width)
            self.cluster_table = initial_table(shape, None, k2)[:, 0]
        else:
            items = np.maximum(valid.sum(axis=1, keepdims=True), 1)
            self.cluster_table = self.table.sum(axis=1, where=valid[..., None]) / items
        self.cluster_bias = jnp.asarray(np.log(totals / totals.sum()), jnp.float32)
        self.valid = jnp.asarray(valid)

    def log_prob(
        self,
        hidden: Float[Array, "*batch item_width"],
        slot: Int[Array, "*batch"],
    ) -> Float[Array, "*batch"]:
        """Returns the float32 log-probability of one slot per query.

        Work and memory grow with the clusters that the slots touch; logits of
        queries against the whole catalog are never formed.

        Args:
            hidden: queries.
            slot: the item asked for; a negative one gives 0.
        """

        def local(head: HierarchicalSoftmax, hidden: Array, slot: Array) -> Array:
            query = hidden.reshape(-1, hidden.shape[-1])
            flat = slot.reshape(-1)
            total = head._log_cluster(query, flat) + head._log_item(query, flat)
            return jnp.where(flat < 0, 0.0, total).reshape(slot.shape)

        if slot.ndim == 0:
            return local(self, hidden[None], slot[None])[0]
        return per_shard(local, self, hidden, slot)

    def cluster_log_probs(
        self, hidden: Float[Array, "*batch item_width"]
    ) -> Float[Array, "*batch cluster"]:
        """Returns the float32 log-probabilities of all clusters."""
        table = gathered(self.cluster_table).astype(hidden.dtype)
        logits = jnp.einsum(
            "...w,cw->...c", hidden, table, preferred_element_type=jnp.float32
        )
        logits = logits + gathered(self.cluster_bias)
        logits = jnp.where(gathered(self.valid).any(axis=-1), logits, -jnp.inf)
        return _log_softmax(logits)

    def log_probs(
        self, hidden: Float[Array, "*batch item_width"]
    ) -> Float[Array, "*batch slot"]:
        """Returns the float32 log-probabilities of all slots; -inf at empty places."""
        table = gathered(self.table).astype(hidden.dtype)
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
        allowed: Bool[Array, "*batch slot"] | None = None,
    ) -> tuple[Int[Array, "*batch k"], Float[Array, "*batch k"]]:
        """Returns the k most probable items, exactly, with their log-probabilities.

        The k best items lie in the k clusters whose own best are highest; those are
        chosen first, and only their items are sorted. Equal scores are ordered by
        slot.

        Args:
            hidden: queries.
            k: how many; more than there are items is allowed.
            allowed: the slots that may be returned, by default every item.

        Returns:
            Slots, best first, and log-probabilities. Where fewer than k items may be
            returned, slot -1 and -inf.
        """
        num_clusters, room = self.valid.shape
        scores = self.log_probs(hidden)
        if allowed is not None:
            scores = jnp.where(allowed, scores, -jnp.inf)
        scores = scores.reshape(*scores.shape[:-1], num_clusters, room)
        _, best = jax.lax.top_k(scores.max(axis=-1), min(k, num_clusters))
        best = jnp.sort(best, axis=-1)
        scores = jnp.take_along_axis(scores, best[..., None], axis=-2)
        slots = best[..., None] * room + jnp.arange(room)
        scores, slots = (x.reshape(*x.shape[:-2], -1) for x in (scores, slots))
        values, index = jax.lax.top_k(scores, min(k, scores.shape[-1]))
        slots = jnp.take_along_axis(slots, index, axis=-1)
        slots = jnp.where(values > -jnp.inf, slots, -1)
        missing = [(0, 0)] * (slots.ndim - 1) + [(0, k - slots.shape[-1])]
        return (
            jnp.pad(slots, missing, constant_values=-1),
            jnp.pad(values, missing, constant_values=-jnp.inf),
        )

    def _log_cluster(
        self, query: Float[Array, "target item_width"], slot: Int[Array, " target"]
    ) -> Float[Array, " target"]:
        cluster = jnp.maximum(slot, 0) // self.valid.shape[1]
        log_probs = self.cluster_log_probs(query)
        return jnp.take_along_axis(log_probs, cluster[:, None], axis=1)[:, 0]

    def _log_item(
        self, query: Float[Array, "target item_width"], slot: Int[Array, " target"]
    ) -> Float[Array, " target"]:
        """log P(item | cluster), with the targets of one cluster treated together.

        Targets are sorted by cluster into groups of `_GROUP`, so that a cluster's
        block is read once a group, and groups are taken in chunks of bounded size.
        """
        num_clusters, room, width = self.table.shape
        members, cluster = _grouped(jnp.where(slot < 0, num_clusters, slot // room),
                                    num_clusters)  # fmt: skip
        grouped = query.at[members].get(mode="fill", fill_value=0)
        places = (slot % room).at[members].get(mode="fill", fill_value=0)

        @jax.checkpoint
        def group(args: tuple[Array, Array, Array]) -> Array:
            grouped, places, cluster = args
            block = self.table[cluster].astype(query.dtype)
            logits = jnp.einsum(
                "gw,rw->gr", grouped, block, preferred_element_type=jnp.float32
            )
            logits = logits + self.bias[cluster]
            logits = jnp.where(self.valid[cluster], logits, -jnp.inf)
            chosen = jnp.take_along_axis(logits, places[:, None], axis=1)[:, 0]
            return chosen - jax.nn.logsumexp(logits, axis=1)

        floats = room * (width + _GROUP)
        chunk = min(len(cluster), max(1, _CHUNK_FLOATS // floats))
        out = jax.lax.map(group, (grouped, places, cluster), batch_size=chunk)
        return jnp.zeros(len(slot)).at[members].set(out, mode="drop")


def initial_table(
    shape: tuple[int, int, int],
    vectors: Float[np.ndarray, "cluster room vector_width"] | None,
    key: PRNGKeyArray,
) -> Float[Array, "cluster room item_width"]:
    """Returns item vectors to start from.

    Args:
        shape: clusters, room and item_width.
        vectors: what is known of the items, most important axis first (a truncated
            SVD of who used them), zero where nothing is. Scaled to `KNOWN_STD` and
            laid over fainter random ones. Axes past item_width are left out.
        key: randomness of the rest.
    """
    noise = INIT_STD * jax.random.normal(key, shape)
    if vectors is None:
        return noise
    known = vectors[..., : shape[-1]]
    size = np.std(known[np.any(known != 0, axis=-1)]) if known.any() else 1.0
    start = jnp.asarray(KNOWN_STD * known / size, jnp.float32)
    return (0.1 * noise).at[..., : known.shape[-1]].add(start)


def _log_softmax(logits: Float[Array, "*axes n"]) -> Float[Array, "*axes n"]:
    """Log-softmax that is -inf, not NaN, where a whole row is -inf."""
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return logits - jnp.where(jnp.isfinite(total), total, 0.0)


def _grouped(
    cluster: Int[Array, " target"], num_clusters: int
) -> tuple[Int[Array, "groups members"], Int[Array, " groups"]]:
    """Puts targets into groups of `_GROUP` that share a cluster.

    Args:
        cluster: each target's; `num_clusters` for a target to leave out.
        num_clusters: how many there are.

    Returns:
        The targets of each group (out of range where a group is not full) and its
        cluster. The number of groups depends on shapes only.
    """
    num_targets = len(cluster)
    num_groups = min(num_targets, num_targets // _GROUP + num_clusters)
    order = jnp.argsort(cluster)
    cluster = cluster[order]
    counts = jnp.bincount(cluster, length=num_clusters)
    groups = -(-counts // _GROUP)
    rank = jnp.arange(num_targets) - (jnp.cumsum(counts) - counts)[cluster]
    group = (jnp.cumsum(groups) - groups)[cluster] + rank // _GROUP
    group = jnp.where(cluster < num_clusters, group, num_groups)
    members = jnp.full((num_groups, _GROUP), num_targets)
    members = members.at[group, rank % _GROUP].set(order, mode="drop")
    owner = jnp.zeros(num_groups, int).at[group].set(cluster, mode="drop")
    return members, owner
