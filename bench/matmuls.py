"""The products of one block at a model's own shapes, alone: the least time there is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bench.contender import Contender, compiled
from bench.flops import block_matrices
from bench.train_torch import has_torch, torch_with_threads
from eqids.config import LlamaConfig, Strategy
from eqids.fit.step_config import activations_of

MATMULS = "products of a block, alone"
Shape = tuple[int, int]
Product = tuple[Shape, Shape, Shape]
"""Shapes of two matrices, and the axis of each that is summed over."""


def products(config: LlamaConfig, strategy: Strategy, positions: int) -> list[Product]:
    """Returns the products of a block.

    Forward, backward to what enters and, where Llama trains, to its matrices.

    Args:
        config: the Llama's.
        strategy: what trains.
        positions: in a batch.
    """
    found = []
    for outputs, inputs in block_matrices(config).values():
        matrix, x, y = (outputs, inputs), (positions, inputs), (positions, outputs)
        found += [(x, matrix, (1, 1)), (y, matrix, (1, 0))]
        if strategy == "all":
            found.append((y, x, (0, 0)))
    return found


def flops_of(config: LlamaConfig, strategy: Strategy, positions: int) -> int:
    """Returns the FLOPs of `products`."""
    return sum(
        2 * a[0] * a[1] * b[1 - axes[1]]
        for a, b, axes in products(config, strategy, positions)
    )


def jax_matmuls(
    name: str, config: LlamaConfig, strategy: Strategy, dtype: str, positions: int
) -> Contender:
    """All products one after the other, each a program of its own.

    Results are of the dtype of activations, which on a CPU is the faster way.
    """
    result = activations_of(dtype, jax.default_backend() == "cpu")
    runs = []
    for a, b, axes in products(config, strategy, positions):
        x, y = (jnp.ones(shape, dtype) for shape in (a, b))
        runs.append((compiled(_dot(axes, result), x, y).call, x, y))

    def run() -> None:
        for program, x, y in runs:
            program(x, y).block_until_ready()

    return Contender(name, MATMULS, run)


def _dot(
    axes: tuple[int, int], result: str
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    contracted = (axes[:1], axes[1:])
    return lambda x, y: jax.lax.dot_general(
        x, y, (contracted, ((), ())), preferred_element_type=jnp.dtype(result)
    )


def torch_matmuls(
    name: str, config: LlamaConfig, strategy: Strategy, dtype: str, positions: int
) -> list[Contender]:
    """The same in torch; nothing where it is not installed."""
    if not has_torch():
        return []
    torch = torch_with_threads()
    runs = []
    for a, b, (left, right) in products(config, strategy, positions):
        x, y = (torch.ones(shape, dtype=getattr(torch, dtype)) for shape in (a, b))
        runs.append((x if left == 1 else x.T, y.T if right == 1 else y))

    def run() -> None:
        for x, y in runs:
            x @ y

    return [Contender(name, MATMULS, run, device="cpu")]
