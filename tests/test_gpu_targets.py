"""Compiled for A100 and H100, where the packages for it are installed; never run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from jax.sharding import AxisType, Mesh
from programs import compiled_layers

from sharding.compiled.hlo import HloCounts, count
from sharding.compiled.machines import hardware
from sharding.compiled.roofline import roofline
from sharding.compiled.targets import gpu_devices, no_cache
from sharding.layout import LayoutError

LAYERS, BATCH, WIDTH = 4, 2048, 1024


@cache
def why_not() -> str:
    """Why nothing can be compiled for a GPU here; empty if it can."""
    try:
        gpu_devices(hardware("h100-80gb"), 1, 1)
    except LayoutError as error:
        return str(error)
    return ""


gpu_compile = pytest.mark.gpu_compile


@pytest.fixture
def compiler() -> Iterator[None]:
    """Skips where there is no compiler for GPUs."""
    if why_not():
        pytest.skip(why_not())
    with no_cache():
        yield


@cache
def layers(name: str, num_hosts: int, per_host: int) -> jax.stages.Compiled:
    devices = np.array(gpu_devices(hardware(name), num_hosts, per_host))
    mesh = Mesh(devices, ("x",), axis_types=(AxisType.Explicit,))
    return compiled_layers(mesh, LAYERS, BATCH, WIDTH, jnp.dtype("bfloat16"))


def counted(name: str, num_hosts: int, per_host: int) -> HloCounts:
    return count(layers(name, num_hosts, per_host).as_text())


@gpu_compile
@pytest.mark.parametrize("name", ["a100-80gb", "h100-80gb"])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_counts_equal_hand_arithmetic(
    compiler: None, name: str, num_devices: int
) -> None:
    compiled = layers(name, 1, num_devices)
    found = counted(name, 1, num_devices)
    weight = 2 * WIDTH * WIDTH
    assert found.num_devices == num_devices
    # Forward, recomputed, and two products backward.
    assert found.flops == 4 * LAYERS * 2 * BATCH * WIDTH * WIDTH // num_devices
    assert not found.unknown_loops
    if num_devices > 1:
        assert found.collective_bytes == {
            "all-gather": 2 * LAYERS * weight,
            "reduce-scatter": LAYERS * weight,
        }
        assert [shape.sizes for shape in found.gathers] == [(WIDTH, WIDTH)]
    else:
        assert not found.collectives
    memory = compiled.memory_analysis()
    stored = (LAYERS * weight + 2 * BATCH * WIDTH) // num_devices
    assert memory.argument_size_in_bytes == stored
    assert memory.output_size_in_bytes == LAYERS * weight // num_devices
    # At least one whole layer beside arguments and results.
    assert stored + weight < memory.peak_memory_in_bytes < hardware(name).memory_bytes


@gpu_compile
def test_two_hosts_do_the_same_over_slower_wires(compiler: None) -> None:
    one, two = counted("h100-80gb", 1, 8), counted("h100-80gb", 2, 4)
    assert one.flops == two.flops and one.collective_bytes == two.collective_bytes
    within = roofline(one, hardware("h100-80gb"), 1).link_seconds
    between = roofline(two, hardware("h100-80gb"), 2).link_seconds
    assert between == pytest.approx(within * 450 / (4 * 50))


@gpu_compile
def test_devices_are_of_the_kind_and_hosts_asked_for(compiler: None) -> None:
    devices = gpu_devices(hardware("a100-40gb"), 2, 4)
    assert {device.device_kind for device in devices} == {"NVIDIA A100-SXM4-40GB"}
    assert [device.process_index for device in devices] == [0] * 4 + [1] * 4
    assert jax.default_backend() == "cpu"


START = """
import jax
from sharding.compiled.machines import hardware
from sharding.compiled.targets import gpu_devices
from sharding.layout import LayoutError

def tell():
    try:
        return gpu_devices(hardware("h100-80gb"), 1, 2)[1].device_kind
    except LayoutError as error:
        return str(error)
"""


def in_a_process(code: str) -> str:
    """Runs code where nobody has chosen a platform for JAX; returns what it prints."""
    kept = {name: value for name, value in os.environ.items() if name[:4] != "JAX_"}
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        env=kept,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@gpu_compile
def test_no_platform_chosen_is_the_cpu_unless_jax_has_started(compiler: None) -> None:
    found = in_a_process("print(tell(), jax.default_backend())")
    assert found.split() == ["NVIDIA", "H100", "80GB", "HBM3", "cpu"]
    if jax.devices()[0].platform == "cpu":
        late = in_a_process("jax.devices()\nprint(tell())")
        assert "jax has started without its plugin" in late
        assert "JAX_PLATFORMS=cpu" in late


def test_packages_that_miss_or_differ_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {
        "jax-cuda12-plugin": jax.__version__,
        "jax-cuda12-pjrt": "0.1.2",
        "nvidia-cuda-nvcc-cu12": "12.9.86",
    }

    def version(package: str) -> str:
        if package not in installed:
            raise PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr("sharding.compiled.targets.version", version)
    wanted = rf"pjrt is 0.1.2, wanted jax's version {jax.__version__}: pip install"
    with pytest.raises(LayoutError, match=wanted):
        gpu_devices(hardware("a100-80gb"), 1, 1)
    installed["jax-cuda12-pjrt"] = jax.__version__
    with pytest.raises(LayoutError, match=r"needs nvidia-cudnn-cu12, .*gpu-compile\]"):
        gpu_devices(hardware("a100-80gb"), 1, 1)


def test_a_cpu_is_no_gpu() -> None:
    with pytest.raises(LayoutError, match="'cpu' cannot be compiled for, wanted one"):
        gpu_devices(hardware("cpu"), 1, 8)
