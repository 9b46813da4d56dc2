"""What a train step needs of a device's memory, estimated before it is compiled.

The bytes of its arguments are exact: they follow from shapes and layout. The bytes of
its temporaries are a closed form of the few that are large, compared with what XLA's
compiler reports in docs/layouts.md.
"""

import math
from dataclasses import dataclass
from typing import Any

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
from eqids.model.remat import Kept, checkpointed, kept_with, named_product
from eqids.model.rope import rope_tables
from eqids.planning.abstract import AbstractRun, Job
from sharding import gathered, lookup

_HELD = 0.5
"""Share of the gathered token embeddings that counts at the last two moments below: XLA
has freed them by then in some of the layouts of docs/layouts.md, and not in others."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        frozen: weights that do not train.
        trained: weights that train, in float32.
        optimizer: state of the optimizer.
        batch: a batch and the list of its active clusters.
        gradients: of all that trains except item tables.
        block_gradients: the part of `gradients` that belongs to Llama's blocks.
        blocks: gradients and updates of the active clusters of item tables.
        activations: what the backward pass keeps of Llama's blocks.
        working: what one block needs while it is computed, gathered weights included.
        head: a piece of the softmax.
        tokens: token embeddings if a step gathers them, and their gradient.
        sums: of gradients over the parts of a batch, if it has several.
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
        """Returns the bytes of the step's arguments, exactly."""
        return self.frozen + self.trained + self.optimizer + self.batch

    @property
    def temporaries(self) -> int:
        """Returns the bytes of the step's temporaries, about.

        The largest of three moments: the softmax after all blocks; the blocks in the
        backward pass; and its end, which holds nothing but gradients (those of token
        embeddings come last).
        """
        softmax = self.activations + self.head
        backward = self.block_gradients + self.activations + self.working
        table = self.tokens // 2
        backward += int(_HELD * table)
        end = self.gradients + table + int(_HELD * table)
        return self.sums + self.blocks + max(softmax, backward, end)

    @property
    def peak(self) -> int:
        """Returns the most bytes that live at once."""
        return self.arguments + self.temporaries


def estimate(job: Job, run: AbstractRun) -> Memory:
    """Returns the memory of a job's step; within `put.active()`.

    Args:
        job: what is trained.
        run: its step and arguments, from `abstract_run`.
    """
    params, tables = run.state.params, item_tables(run.state.params)
    dense = eqx.filter(params, jax.tree.map(lambda table: not table, tables))
    kept, inside, weights = _block(job, run)
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
        activations=job.model.llama.num_layers * kept,
        working=inside + weights,
        # Pieces are large on accelerators, where half precision is used.
        head=4 * (PIECE if job.step.activations == "float32" else LARGE_PIECE),
        tokens=_token_table(job, run),
        sums=gradients + blocks if job.step.accumulate > 1 else 0,
    )


def _kept(job: Job) -> Kept:
    return kept_with(job.step.remat, job.step.kernel == "cudnn")


def _block(job: Job, run: AbstractRun) -> tuple[int, int, int]:
    """Bytes that one block keeps for its backward pass, of its inside, and weights."""
    both = run.state.params.llama.blocks, run.frozen.llama.blocks
    trained, frozen = jax.tree.map(_first, both)
    kept, inside = (
        _residuals(job, run, trained, frozen, what) for what in (_kept(job), "all")
    )

    def used(*blocks: PyTree) -> PyTree:
        return jax.tree.map(lambda x: gathered(x.astype(job.step.dtype)), blocks)

    weights, copies = _bytes(jax.eval_shape(used, trained, frozen)), 1
    if weights > _stored((trained, frozen), job.step.dtype):
        copies = 2  # While one layer computes, the next one's weights are gathered.
    return kept, inside, copies * weights


def _token_table(job: Job, run: AbstractRun) -> int:
    """Bytes of the token embeddings and their gradient, if each step gathers them."""
    llama = eqx.combine(run.state.params, run.frozen).llama
    table = llama.embedding
    whole = jax.eval_shape(lambda x: gathered(x.astype(job.step.dtype)), table)
    return 2 * _bytes(whole) if _bytes(whole) > _stored(table, job.step.dtype) else 0


def _stored(tree: PyTree, dtype: DTypeLike) -> int:
    """Bytes of one device's shards, if they were of this dtype."""
    itemsize = jnp.dtype(dtype).itemsize
    return sum(_bytes(x) // x.dtype.itemsize * itemsize for x in jax.tree.leaves(tree))


def _first(stacked: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda x: x[0], stacked)


def _residuals(
    job: Job, run: AbstractRun, trained: PyTree, frozen: PyTree, what: Kept
) -> int:
    """Bytes that one block's vjp closes over, without the arguments of all blocks."""

    # cuDNN's kernel can be traced on a GPU only. Like it, a checkpointed attention
    # keeps its result for the backward pass and none of its scores.
    def fused(*args: Any) -> Array:
        return named_product(jax.checkpoint(attention)(*args))

    attend = attention if job.step.kernel == "xla" else fused

    def pullback(
        trained: PyTree, x: Array, frozen: PyTree, mask: Array, rope: PyTree, key: Array
    ) -> PyTree:
        def block(trained: PyTree, x: Array) -> Array:
            block = eqx.combine(trained, frozen)
            context = AttentionContext(mask, rope, attend)
            return block(x, context, job.model.dropout, key)

        return jax.vjp(checkpointed(block, what), trained, x)[1]

    def inputs(batch: Batch) -> tuple[Array, Array, PyTree]:
        x = lookup(
            jnp.zeros((1, job.model.llama.width), job.step.activations), batch.segment
        )
        mask = batch.segment[:, :, None] == batch.segment[:, None, :]
        return x, mask, rope_tables(batch.position, job.model.llama)

    def part(batch: Batch) -> Batch:
        return jax.tree.map(lambda x: x[0], parts_of(batch, job.step.accumulate))

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
