"""Attention of each kernel, forward and backward, against float32 on a CPU."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bench.gpu.card import data_sheet_flops, measured_flops
from bench.gpu.gpu_cases import AttentionCase
from bench.gpu.part_context import GpuRow, PartContext
from eqids.model.attention import Kernel, attention, sees

Arrays = tuple[Array, ...]
KERNELS: tuple[Kernel, ...] = ("xla", "cudnn")
_REPETITIONS = 10


def measure(case: AttentionCase, context: PartContext) -> Iterator[GpuRow]:
    """Yields the peak of a product, and a row for each kernel."""
    sheet, found = data_sheet_flops(), measured_flops()
    yield GpuRow(
        "bfloat16 product",
        {"TFLOP/s": found / 1e12, "of the data sheet": sheet and found / sheet},
    )
    arrays, mask = inputs(case, context.seed)
    with jax.default_device(jax.devices("cpu")[0]):
        wide = [jnp.asarray(np.asarray(x, np.float32)) for x in arrays]
        wanted = reference(wide, jnp.asarray(np.asarray(mask)))
    for kernel in KERNELS:
        work = f"{kernel}, {case}"
        if kernel == "cudnn" and not context.on_gpu:
            yield GpuRow(work, note="left out: cuDNN needs a GPU")
            continue
        program = jax.jit(with_gradients, static_argnums=2)
        got = jax.block_until_ready(program(arrays, mask, kernel))
        names = ("out", "dq", "dk", "dv")
        pairs = zip(names, got, wanted, strict=True)
        numbers = {f"{name} off": relative(a, b) for name, a, b in pairs}
        seconds = []
        for _ in range(_REPETITIONS):
            start = time.perf_counter()
            jax.block_until_ready(program(arrays, mask, kernel))
            seconds.append(time.perf_counter() - start)
        yield GpuRow(work, {"ms": 1e3 * float(np.median(seconds)), **numbers})


def inputs(case: AttentionCase, seed: int) -> tuple[Arrays, Array]:
    """Returns queries, keys, values and a gradient in bfloat16, and a packed mask."""
    keys = jax.random.split(jax.random.key(seed), 4)
    shape = case.batch_size, case.seq_len
    heads = [case.num_heads, case.num_kv_heads, case.num_kv_heads, case.num_heads]
    arrays = tuple(
        jax.random.normal(key, (*shape, n, case.head), jnp.bfloat16)
        for key, n in zip(keys, heads, strict=True)
    )
    # Two histories in each row.
    segment = jnp.broadcast_to(jnp.arange(case.seq_len) >= case.seq_len // 3, shape)
    return arrays, sees(segment.astype(jnp.int32))


def with_gradients(arrays: Arrays, mask: Array, kernel: Kernel) -> Arrays:
    """Returns the attention and the gradients of queries, keys and values."""
    *qkv, gradient = arrays

    def attend(q: Array, k: Array, v: Array) -> Array:
        return attention(q, k, v, mask, kernel=kernel)

    out, pullback = jax.vjp(attend, *qkv)
    return out, *pullback(gradient)


def reference(arrays: list[Array], mask: Array) -> Arrays:
    """The same in float32 by jax's own attention, which shares no code with ours."""
    *qkv, gradient = arrays

    def attend(q: Array, k: Array, v: Array) -> Array:
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask[:, None], implementation="xla"
        )

    out, pullback = jax.vjp(attend, *qkv)
    return out, *pullback(gradient)


def relative(found: Any, wanted: Any) -> float:
    """Returns the norm of the difference over that of what was wanted."""
    a = np.asarray(found, np.float64)
    b: Float[np.ndarray, "*axes"] = np.asarray(wanted, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
