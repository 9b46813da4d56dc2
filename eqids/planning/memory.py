"""What a train step needs of a device's memory, known before anything is compiled.

What the step is given is exact: shapes and layout say it to the byte. What it makes is
an estimate by closed form of the few things that are large, held to XLA's compiler in
docs/layouts.md.
"""

import math
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from eqids.fit.step import parts_of
from eqids.fit.strategy import item_tables
from eqids.model import Batch
from eqids.model.attention import AttentionContext, attention
from eqids.model.levels import LARGE_PIECE, PIECE
from eqids.model.remat import Kept, checkpointed, kept_with
from eqids.model.rope import rope_tables
from eqids.planning.abstract import AbstractRun, Job
from sharding import gathered, lookup

_OF_ALL = 0.75
"""Share that XLA keeps of all that a block leaves to its backward pass; the rest it
makes again inside of fusions (mean of the layouts in docs/layouts.md)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        frozen: weights that do not train.
        trained: weights that do, in float32.
        optimizer: its state.
        batch: a batch and the list of its clusters.
        gradients: of all that trains but item tables.
        block_gradients: of these, Llama's blocks'.
        blocks: gradients and updates of the item tables' touched clusters.
        activations: what the backward pass keeps of Llama's blocks.
        working: what one block needs while it is computed, gathered weights included.
        head: a piece of the softmax.
        tokens: words' vectors where a step gathers them, and their gradient.
        sums: of gradients over the parts of a batch, where there are parts.
    """

    frozen: int
    trained: int
    optimizer: int
    batch: int
    gradients: int
    block_gradients: int
    blocks: int
    activations: int
    working: int
    head: int
    tokens: int
    sums: int

    @property
    def arguments(self) -> int:
        """Returns what the step is given, exactly."""
        return self.frozen + self.trained + self.optimizer + self.batch

    @property
    def temporaries(self) -> int:
        """Returns what the step makes, about.

        The most of three moments: the softmax after all blocks, the blocks on the way
        back, and the end, when there is nothing but gradients; those of words come
        last.
        """
        softmax = self.activations + self.head
        backward = self.block_gradients + self.activations + self.working
        backward += self.tokens // 2
        return (
            self.sums
            + self.blocks
            + max(softmax, backward, self.gradients + self.tokens)
        )

    @property
    def peak(self) -> int:
        """Returns what lives at once, at most."""
        return self.arguments + self.temporaries


def estimate(job: Job, run: AbstractRun) -> Memory:
    """Returns the memory of a run's step; within `put.active()`.

    Args:
        job: what is trained.
        run: its step's arguments, from `abstract_run`.
    """
    params, tables = run.state.params, item_tables(run.state.params)
    dense = eqx.filter(params, jax.tree.map(lambda table: not table, tables))
    kept, inside, weights = _block(job, run)
    if _kept(job) != "products":
        kept = int(_OF_ALL * kept)
    blocks = _bytes(eqx.filter(params, tables))
    if run.active is not None:
        own = _bytes(run.active) // run.active.dtype.itemsize
        valid = run.frozen.softmax.valid
        clusters = _bytes(valid) // math.prod(valid.shape[1:])
        blocks = blocks * own // clusters
    gradients = _bytes(dense)
    return Memory(
        frozen=_bytes(run.frozen),
        trained=_bytes(params),
        optimizer=_bytes(run.state.optimizer) + _bytes(run.state.step),
        batch=_bytes((run.batch, run.key, run.active)),
        gradients=gradients,
        block_gradients=_bytes(dense.llama.blocks),
        blocks=2 * blocks,
        activations=job.sizes.llama.num_layers * kept,
        working=inside + weights,
        # Pieces are large on accelerators, where half precision is used.
        head=4 * (PIECE if job.activations == "float32" else LARGE_PIECE),
        tokens=_words(job, run),
        sums=gradients + blocks if job.accumulate > 1 else 0,
    )


def _kept(job: Job) -> Kept:
    return kept_with(job.remat, job.kernel == "cudnn")


def _block(job: Job, run: AbstractRun) -> tuple[int, int, int]:
    """Bytes that one block leaves to its backward pass, has inside, and weighs."""
    both = run.state.params.llama.blocks, run.frozen.llama.blocks
    trained, frozen = jax.tree.map(_first, both)
    kept, inside = (
        _residuals(job, run, trained, frozen, what) for what in (_kept(job), "all")
    )

    def used(*blocks: PyTree) -> PyTree:
        return jax.tree.map(lambda x: gathered(x.astype(job.dtype)), blocks)

    weights, ways = _bytes(jax.eval_shape(used, trained, frozen)), 1
    if weights > _stored((trained, frozen), job.dtype):
        ways = 2  # While one layer computes, the next one's weights come.
    return kept, inside, ways * weights


def _words(job: Job, run: AbstractRun) -> int:
    """Bytes of the words' vectors and their gradient, where each step gathers them."""
    llama = eqx.combine(run.state.params, run.frozen).llama
    table = llama.embedding
    whole = jax.eval_shape(lambda x: gathered(x.astype(job.dtype)), table)
    return 2 * _bytes(whole) if _bytes(whole) > _stored(table, job.dtype) else 0


def _stored(tree: PyTree, dtype: DTypeLike) -> int:
    """Bytes of one device's shards, if they were of this dtype."""
    itemsize = jnp.dtype(dtype).itemsize
    return sum(_bytes(x) // x.dtype.itemsize * itemsize for x in jax.tree.leaves(tree))


def _first(stacked: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda x: x[0], stacked)


def _residuals(
    job: Job, run: AbstractRun, trained: PyTree, frozen: PyTree, what: Kept
) -> int:
    """Bytes of what one block's vjp closes over, besides what all blocks are given."""

    # cuDNN's kernel can be traced on a GPU only. Like it, a checkpointed attention
    # keeps its inputs for the backward pass and none of its scores.
    attend = attention if job.kernel == "xla" else jax.checkpoint(attention)

    def pullback(
        trained: PyTree, x: Array, frozen: PyTree, mask: Array, rope: PyTree, key: Array
    ) -> PyTree:
        def block(trained: PyTree, x: Array) -> Array:
            block = eqx.combine(trained, frozen)
            context = AttentionContext(mask, rope, attend)
            return block(x, context, job.sizes.dropout, key)

        return jax.vjp(checkpointed(block, what), trained, x)[1]

    def inputs(batch: Batch) -> tuple[Array, Array, PyTree]:
        x = lookup(
            jnp.zeros((1, job.sizes.llama.width), job.activations), batch.segment
        )
        mask = batch.segment[:, :, None] == batch.segment[:, None, :]
        return x, mask, rope_tables(batch.position, job.sizes.llama)

    def part(batch: Batch) -> Batch:
        return jax.tree.map(lambda x: x[0], parts_of(batch, job.accumulate))

    x, mask, rope = jax.eval_shape(inputs, jax.eval_shape(part, run.batch))
    shared = trained, frozen, mask, rope
    left = list(
        jax.tree.leaves(
            jax.eval_shape(pullback, trained, x, frozen, mask, rope, run.key)
        )
    )
    for leaf in jax.tree.leaves(shared):
        same = [i for i, x in enumerate(left) if _form(x) == _form(leaf)]
        if same:
            left.pop(same[0])
    return _bytes(left)


def _form(leaf: jax.ShapeDtypeStruct) -> tuple[object, ...]:
    return leaf.shape, leaf.dtype


def _bytes(tree: object) -> int:
    """Bytes of one device's shards."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = leaf.sharding
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total
