"""LoRA: low-rank changes of frozen matrices (Hu et al. 2021)."""

import math
import types
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PRNGKeyArray

from eqids.config import LoraConfig, LoraTarget
from eqids.model.product import product
from eqids.model.remat import named_product
from sharding import Words, gathered, like, words

FIELDS: Mapping[LoraTarget, str] = types.MappingProxyType(
    {
        "q": "wq",
        "k": "wk",
        "v": "wv",
        "o": "wo",
        "gate": "w_gate",
        "up": "w_up",
        "down": "w_down",
    }
)
"""The matrices of a block, by the names of `--lora_targets`."""


class LowRank(eqx.Module):
    """The change `alpha / rank * B A` of one kind of matrix, in all blocks.

    Training does not compute the product B A. The axes have the words of the changed
    matrix, outputs first; `rank` is the axis between A and B.
    """

    a: Float[Array, "layer rank *inputs"]
    b: Float[Array, "layer *outputs rank"]
    inputs: tuple[str, ...] = eqx.field(static=True)
    outputs: tuple[str, ...] = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        matrix: Float[Array, "layer *axes"],
        axes: Words,
        config: LoraConfig,
        *,
        key: PRNGKeyArray,
    ):
        """Starts from a random A and a B of zeros, which changes nothing.

        Args:
            matrix: the matrix to change; only its shape matters.
            axes: its axis words. `width` is one side; the other words are the other
                side.
            config: rank and alpha.
            key: randomness of A.
        """
        num_outputs = 1 if axes.names[1] == "width" else matrix.ndim - 2
        layer, *sizes = matrix.shape
        outputs, inputs = sizes[:num_outputs], sizes[num_outputs:]
        a = jax.random.normal(key, (layer, config.rank, *inputs))
        self.a = a / math.sqrt(math.prod(inputs))
        self.b = jnp.zeros((layer, *outputs, config.rank))
        self.outputs = axes.names[1 : 1 + num_outputs]
        self.inputs = axes.names[1 + num_outputs :]
        self.scale = config.alpha / config.rank

    def added(self, matrix: Float[Array, "layer *axes"]) -> Float[Array, "layer *axes"]:
        """Returns the matrix with the change multiplied out and added."""
        outputs, inputs = "uv"[: len(self.outputs)], "xy"[: len(self.inputs)]
        change = jnp.einsum(
            f"l{outputs}r,lr{inputs}->l{outputs}{inputs}",
            gathered(self.b),
            gathered(self.a),
            out_sharding=like(matrix),
        )
        return matrix + self.scale * change

    def __call__(
        self,
        x: Float[Array, "batch seq *inputs"],
        out_sharding: NamedSharding | None = None,
    ) -> Float[Array, "batch seq *outputs"]:
        """Returns what the change adds to the matrix's product with `x`.

        Args:
            x: the input of the matrix.
            out_sharding: the sharding of a result `[batch, seq, width]`, whose inputs a
                mesh axis may split.
        """
        a, b = (gathered(w.astype(x.dtype)) for w in (self.a, self.b))
        ends = tuple(range(-len(self.inputs), 0))
        y = jnp.tensordot(x, a, (ends, ends), out_sharding=out_sharding)
        y = named_product(y)
        return jnp.tensordot(self.scale * y, b, (-1, -1), out_sharding=out_sharding)


def linear(
    equation: str,
    x: Float[Array, "batch seq *inputs"],
    weight: Float[Array, "*sizes"],
    change: LowRank | None,
    out_sharding: NamedSharding | None = None,
) -> Float[Array, "batch seq *outputs"]:
    """Returns a matrix times `x`, plus its low-rank change times `x` if it has one.

    Args:
        equation: as in `product`.
        x: the input.
        weight: the matrix, of one layer.
        change: the low-rank change of the matrix, or None.
        out_sharding: the sharding of the result, if einsum cannot infer it.
    """
    y = product(equation, x, weight, out_sharding)
    return named_product(y if change is None else y + change(x, out_sharding))


def low_rank_changes(
    blocks: eqx.Module, config: LoraConfig, *, key: PRNGKeyArray
) -> dict[str, LowRank]:
    """Returns a change for each matrix that the config targets, by its field's name.

    Args:
        blocks: stacked over `layer`; its fields are annotated.
        config: rank, alpha and targets.
        key: randomness.
    """
    axes = words(blocks)
    names = [FIELDS[target] for target in config.targets]
    keys = jax.random.split(key, len(names))
    return {
        name: LowRank(getattr(blocks, name), getattr(axes, name), config, key=key)
        for name, key in zip(names, keys, strict=True)
    }
