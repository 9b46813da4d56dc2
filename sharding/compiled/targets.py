"""Makes GPUs to compile for, on a machine without a GPU.

XLA's compiler needs only a description of the device. The result shows
memory, collectives and kernels, but cannot run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from sharding.compiled.machines import Hardware
from sharding.layout import LayoutError

_INSTALL = "pip install 'eqids[gpu-compile]'"
_PLUGINS = ("jax-cuda12-plugin", "jax-cuda12-pjrt")
_LIBRARIES = ("nvidia-cuda-nvcc-cu12", "nvidia-cudnn-cu12")

_A100 = """
  core_count: 108
  fpus_per_core: 64
  shared_memory_per_core: 167936
  shared_memory_per_block_optin: 166912
  l2_cache_size: 41943040
  clock_rate_ghz: 1.41
  cuda_compute_capability { major: 8 feature_extension: NONE }
"""
_H100 = """
  core_count: 132
  fpus_per_core: 128
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
"""
_CHIPS = {
    "a100-40gb": ("NVIDIA A100-SXM4-40GB", _A100),
    "a100-80gb": ("NVIDIA A100-SXM4-80GB", _A100),
    "h100-80gb": ("NVIDIA H100 80GB HBM3", _H100),
}
"""The driver's name of a device, and XLA's description of its chip
(openxla/xla, xla/backends/gpu/target_config/specs)."""


def gpu_devices(
    hardware: Hardware, num_hosts: int, devices_per_host: int
) -> list[jax.Device]:
    """Returns GPUs to compile for, which cannot compute; compile under `no_cache`.

    If JAX has no platform set, this sets the CPU; otherwise the plugin that compiles
    for GPUs would search for a GPU to run on.

    Args:
        hardware: one of `HARDWARE` other than `cpu`.
        num_hosts: number of machines.
        devices_per_host: GPUs of each machine, joined by NVLink.

    Returns:
        The devices, host by host.

    Raises:
        LayoutError: the hardware is no GPU, a package is missing or has another
            version than jax, or jax has started without the plugin.
    """
    target = _target(hardware)
    _require_packages()
    if not jax.config.values["jax_platforms"]:
        jax.config.update("jax_platforms", "cpu")
    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology=f"1x{num_hosts}x{devices_per_host}",
            target_config=target,
        )
    except NotImplementedError as error:
        raise LayoutError(
            f"cannot compile for {hardware.name}: jax has started without its plugin "
            "for GPUs, wanted JAX_PLATFORMS=cpu in the environment"
        ) from error
    return list(topology.devices)


@contextmanager
def no_cache() -> Iterator[None]:
    """Compiles without JAX's persistent cache.

    The cache stores programs for absent devices and then, with a warning, fails to load
    them.
    """
    enabled = jax.config.values["jax_enable_compilation_cache"]
    _use_cache(False)
    try:
        yield
    finally:
        _use_cache(enabled)


def _use_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # otherwise a process keeps its first choice


def _require_packages() -> None:
    """Raises LayoutError if a package that compiles for GPUs is missing or old."""
    for package in _PLUGINS + _LIBRARIES:
        try:
            found = version(package)
        except PackageNotFoundError as error:
            raise LayoutError(
                f"compiling for a GPU needs {package}, which is not installed: "
                f"{_INSTALL}"
            ) from error
        if package in _PLUGINS and found != jax.__version__:
            raise LayoutError(
                f"{package} is {found}, wanted jax's version {jax.__version__}: "
                f"{_INSTALL}"
            )


def _target(hardware: Hardware) -> str:
    """A GpuTargetConfigProto as text."""
    if hardware.name not in _CHIPS:
        raise LayoutError(
            f"hardware {hardware.name!r} cannot be compiled for, wanted one of "
            f"{', '.join(_CHIPS)}"
        )
    name, chip = _CHIPS[hardware.name]
    return f"""
gpu_device_info {{
  name: "{name}"
  device_memory_size: {hardware.memory_bytes}
  memory_bandwidth: {int(hardware.hbm_bytes_per_second or 0)}
  {chip}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  driver_version: "13.0.0"
  runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""
