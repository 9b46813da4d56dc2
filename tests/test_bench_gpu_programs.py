"""The programs of `python -m bench gpu`, compiled for an H100 without one."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from _pytest.mark import ParameterSet

from bench.flops import Amount, train_flops
from bench.gpu.device_step import preset_of_case
from bench.gpu.gpu_cases import AttentionCase, CatalogCase, StepCase
from bench.gpu.gpu_parts import PARTS
from bench.gpu.head_part import catalog_shape
from bench.gpu.kernels_part import KERNELS, with_gradients
from bench.head_ours import gradients
from eqids.model import HierarchicalSoftmax
from eqids.model.attention import sees
from eqids.planning.abstract import abstract_run
from eqids.planning.estimates import estimated
from eqids.planning.preset_jobs import compile_placement, preset_job
from sharding import LayoutError
from sharding.compiled.hlo import count
from sharding.compiled.hlo_costs import InstructionCost, instruction_costs
from sharding.compiled.machines import HARDWARE, hardware
from sharding.compiled.proof import prove
from sharding.compiled.targets import gpu_devices, no_cache

H100 = "h100-80gb"
pytestmark = pytest.mark.gpu_compile


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """Skips where there is no compiler for GPUs."""
    try:
        gpu_devices(HARDWARE[H100], 1, 1)
    except LayoutError as error:
        pytest.skip(str(error))
    with no_cache():
        yield


def cases(name: str) -> list[Any]:
    """All cases of a part on a GPU."""
    return [case for group in PARTS[name].cases["gpu"] for case in group]


def steps() -> list[ParameterSet]:
    """The train steps that fit an H100 by the estimate; a frozen 1B in CI."""
    found = []
    for case in [*cases("train"), *(peer.step for peer in cases("peers"))]:
        sample = (case.llama_size, case.train, case.seq_len) == ("1b", "heads", 256)
        marks = () if sample else pytest.mark.long
        found.append(pytest.param(case, id=str(case), marks=marks))
    return found


@pytest.mark.parametrize("case", steps())
def test_steps_compile_and_fit_with_the_flops_of_the_formula(case: StepCase) -> None:
    """cuDNN's attention runs in both passes, and no product is wider than was meant."""
    preset = preset_of_case(case, H100)
    machine = HARDWARE[H100]
    if estimated(preset).peak > machine.capacity_bytes:
        pytest.skip("it does not fit by the estimate, and would not be run")
    text, peak = compiled_step(case)
    assert peak <= machine.capacity_bytes
    assert peak == pytest.approx(estimated(preset).peak, rel=0.25)
    counts = count(text)
    layers = preset_job(preset).model.llama.num_layers
    assert counts.custom_calls["__cudnn$fmhaScaleBiasSoftmax"] == layers
    assert counts.custom_calls["__cudnn$fmhaScaleBiasSoftmaxBackward"] == layers
    full = case.batch_size * case.seq_len
    pairs = case.batch_size * case.seq_len * (case.seq_len + 1) // 2
    amount = Amount(full, pairs, full)
    formula = train_flops(preset_job(preset).model, case.train, amount)
    assert counts.flops == pytest.approx(formula, rel=0.05)
    assert not [*wide_products(instruction_costs(text))]


@cache
def compiled_step(case: StepCase) -> tuple[str, int]:
    """The optimized HLO of a step, and its peak."""
    preset = preset_of_case(case, H100)
    put, job = compile_placement(preset), preset_job(preset)
    with put.active():
        run = abstract_run(job, put)
        program = run.step.lower(*run.args).compile()
    memory, text = program.memory_analysis(), program.as_text()
    assert memory is not None and text is not None
    return text, memory.peak_memory_in_bytes


def wide_products(costs: tuple[InstructionCost, ...]) -> Iterator[str]:
    """Products of float32 in Llama's blocks, which are meant to be in bfloat16."""
    for cost in costs:
        if "f32" in cost.product_dtypes and "while/body" in cost.label:
            yield f"{cost.flops / 1e9:.1f} GFLOP: {cost.label}"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", cases("kernels"), ids=str)
def test_attention_compiles(case: AttentionCase, kernel: Any) -> None:
    device = gpu_devices(HARDWARE[H100], 1, 1)[0]
    here = jax.sharding.SingleDeviceSharding(device)
    shape = case.batch_size, case.seq_len
    heads = (case.num_heads, case.num_kv_heads, case.num_kv_heads, case.num_heads)
    arrays = tuple(
        jax.ShapeDtypeStruct((*shape, n, case.head), jnp.bfloat16, sharding=here)
        for n in heads
    )
    mask = jax.eval_shape(sees, jax.ShapeDtypeStruct(shape, jnp.int32))
    mask = jax.ShapeDtypeStruct(mask.shape, mask.dtype, sharding=here)
    program = jax.jit(with_gradients, static_argnums=2)
    text = program.lower(arrays, mask, kernel).compile().as_text()
    calls = count(text).custom_calls
    fused = [name for name in calls if "fmha" in name]
    assert len(fused) == (2 if kernel == "cudnn" else 0)


@pytest.mark.long
@pytest.mark.parametrize("case", cases("head"), ids=str)
def test_steps_of_large_catalogs_compile(case: CatalogCase) -> None:
    """Dense tables of 10 million x 384 need more than the card: those are a row."""
    device = gpu_devices(HARDWARE[H100], 1, 1)[0]
    here = jax.sharding.SingleDeviceSharding(device)
    num_clusters, size, width = catalog_shape(case)
    key = jax.eval_shape(lambda: jax.random.key(0))
    head = eqx.filter_eval_shape(
        HierarchicalSoftmax, num_clusters, size, width, key=key
    )
    hidden = jax.ShapeDtypeStruct((case.targets, width), jnp.float32)
    slot = jax.ShapeDtypeStruct((case.targets,), jnp.int32)
    active = jax.ShapeDtypeStruct((min(num_clusters, 1024),), jnp.int32)
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        (head, active, hidden, slot),
    )
    proof = prove(jax.jit(gradients), args, hardware(H100))
    assert proof.fits
    # Temporaries do not grow with the catalog, but with its active clusters.
    blocks = active.shape[0] * size * (width + 1) * 4
    assert proof.temp_bytes < 4 * blocks
