"""Exported programs, compiled for an H100 where a compiler for it is installed."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest
from conftest import make_dataset
from served import opened_model
from test_gpu_targets import gpu_compile, why_not

from eqids.export.exported_programs import ModelArrays, exported, input_shapes
from sharding.compiled.machines import hardware
from sharding.compiled.targets import gpu_devices, no_cache


@pytest.fixture
def h100() -> Iterator[jax.sharding.Sharding]:
    """One H100; skips where there is no compiler for GPUs."""
    if why_not():
        pytest.skip(why_not())
    (device,) = gpu_devices(hardware("h100-80gb"), 1, 1)
    with no_cache():
        yield jax.sharding.SingleDeviceSharding(device)


@gpu_compile
def test_an_exported_program_compiles_for_an_h100(
    h100: jax.sharding.Sharding, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = make_dataset(tmp_path_factory.mktemp("data") / "small")
    opened = opened_model(dataset, "prompt")
    weights = ModelArrays(opened)
    program = exported(opened, weights, 3, 16, 6)
    shapes = weights.arrays, input_shapes(opened, 3, 16)
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=h100), shapes
    )
    compiled = jax.jit(program.call).lower(*args).compile()
    memory = compiled.memory_analysis()
    sizes = (np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(args))
    assert memory.argument_size_in_bytes >= sum(sizes)
    (sharding, *_) = jax.tree.leaves(compiled.input_shardings)
    assert {x.device_kind for x in sharding.device_set} == {"NVIDIA H100 80GB HBM3"}
