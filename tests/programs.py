"""A program whose FLOPs and bytes one can work out by hand."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def compiled_layers(
    mesh: Mesh, layers: int, batch: int, width: int, dtype: jnp.dtype
) -> jax.stages.Compiled:
    """The gradient by the weights of square layers, scanned, recomputed, gathered.

    Weights `[layer, width, width]` and the batch are split over the mesh's only axis.
    """
    (axis,) = mesh.axis_names

    def abstract(shape: tuple[int, ...], *spec: str | None) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        w = jax.sharding.reshard(w, PartitionSpec())
        return jnp.tanh(jnp.einsum("bk,kn->bn", x, w)), None

    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(jax.checkpoint(layer), x, weights)
        return jnp.sum(x.astype(jnp.float32) ** 2)

    weights = abstract((layers, width, width), None, axis, None)
    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss)).lower(weights, abstract((batch, width), axis))
    return lowered.compile()
