"""From a named layout, or a user's wishes, to a job on a mesh that may not exist."""

import dataclasses
import math
from collections.abc import Sequence

import jax

from eqids.config import (
    LLAMA_PRESETS,
    NANO_RECIPE,
    PRETRAINED_RECIPES,
    LoraConfig,
    MachineConfig,
    ModelConfig,
    Recipe,
    RunConfig,
    Strategy,
    require,
)
from eqids.data.clustering.cluster_sizes import default_num_clusters
from eqids.model.attention import Kernel, cudnn_attends
from eqids.planning.abstract import Job, activations_of
from eqids.planning.named_layouts import LAYOUT_PRESETS, LayoutPreset, layout_preset
from sharding import (
    Placement,
    abstract_mesh,
    gpu_devices,
    hardware,
    make_mesh,
    named_layout,
)

_SPARSE_FROM = 10_000
"""Items from which a batch is taken to touch less than half of the clusters."""


def row_of(config: MachineConfig) -> LayoutPreset:
    """Returns what the flags ask for: a row of the table, or one made like them.

    Raises:
        LayoutError: there is no such layout, or not for this many devices.
    """
    hosts, devices = config.hosts
    name = config.layout
    if name is not None and "-" in name:
        row = layout_preset(name)
        default = MachineConfig()
        given = (config.llama_size, config.train, config.hardware, hosts, devices)
        unsaid = (default.llama_size, default.train, default.hardware, 1, 1)
        require(
            given in (unsaid, _given(row)),
            f"--layout {name} says size, hardware, devices and what trains, and other "
            "flags say otherwise; wanted --layout alone, or a mesh such as 1x8x1",
        )
    else:
        given = (config.llama_size, config.train, config.hardware, hosts, devices)
        known = (r for r in LAYOUT_PRESETS.values() if _given(r) == given)
        found = next(known, None)
        recipe = _recipe(config.llama_size, config.train)
        row = found or LayoutPreset(
            *given, mesh_shape=(hosts * devices, 1, 1),
            batch_size=recipe.batch_size * hosts * devices, seq_len=recipe.seq_len,
        )  # fmt: skip
        if name is not None:
            shape = named_layout(name, hosts * devices).mesh_shape
            row = dataclasses.replace(row, mesh_shape=shape)
    names = ("batch_size", "seq_len", "num_items", "remat")
    told = {name: getattr(config, name) for name in names}
    told = {name: value for name, value in told.items() if value is not None}
    row = dataclasses.replace(row, **told)
    if name is None or "-" in name or LAYOUT_PRESETS.get(row.name) == row:
        return row
    return dataclasses.replace(row, spelled=name)


def _given(row: LayoutPreset) -> tuple[str, str, str, int, int]:
    devices = row.num_hosts, row.devices_per_host
    return (row.llama_size, row.train, row.hardware, *devices)


def job_of(row: LayoutPreset, item_width: int | None = None) -> Job:
    """Returns what a row trains.

    Args:
        row: sizes, batch, catalog.
        item_width: of an item's vector, by default the recipe's.
    """
    strategy: Strategy = row.train  # type: ignore[assignment]
    recipe = _recipe(row.llama_size, strategy)
    recipe = dataclasses.replace(recipe, batch_size=row.batch_size, seq_len=row.seq_len)
    dtype = "float32" if row.hardware == "cpu" else "bfloat16"
    fused = cudnn_attends(LLAMA_PRESETS[row.llama_size], row.seq_len, dtype)
    num_clusters = default_num_clusters(row.num_items)
    sizes = ModelConfig(
        llama=LLAMA_PRESETS[row.llama_size],
        num_clusters=num_clusters,
        cluster_size=math.ceil(row.num_items / num_clusters),
        item_width=item_width or recipe.item_width,
        adapter=recipe.adapter,
        dropout=recipe.dropout,
        lora=LoraConfig() if strategy == "lora" else None,
    )
    return Job(
        sizes=sizes,
        recipe=recipe,
        strategy=strategy,
        dtype=dtype,
        activations=activations_of(dtype, row.hardware == "cpu"),
        remat=row.remat,
        kernel="cudnn" if fused else "xla",
        items="lazy_adam" if row.num_items > _SPARSE_FROM else "dense",
    )


def job_of_run(config: RunConfig, sizes: ModelConfig, prefix: int = 0) -> Job:
    """Returns what a run trains, as far as memory and time go.

    Args:
        config: the run's; with `--hardware`, what it would be there.
        sizes: the model's.
        prefix: positions of a prompt that is computed once. They count as if they were
            in the rows, which is no less than they take as keys of every row.
    """
    flags, recipe, dtype = config.flags, config.recipe, config.dtype
    backend = jax.default_backend()
    gpu, on_cpu = backend == "gpu", backend == "cpu"
    if flags.hardware not in (None, "cpu"):
        gpu, on_cpu = True, False
        dtype = "bfloat16" if flags.dtype == "auto" else dtype
    can = gpu and cudnn_attends(sizes.llama, recipe.seq_len, dtype)
    require(
        flags.attention != "cudnn" or can,
        "--attention cudnn needs a GPU, bfloat16, an even --seq_len and heads of at "
        "most 128 that 8 divides; wanted auto or xla",
    )
    kernel: Kernel = "cudnn" if can else "xla"
    if flags.attention != "auto":
        kernel = flags.attention
    return Job(
        sizes=sizes,
        recipe=dataclasses.replace(recipe, seq_len=recipe.seq_len + prefix),
        strategy=config.strategy,
        dtype=dtype,
        activations=activations_of(dtype, on_cpu),
        remat=flags.remat,
        kernel=kernel,
        items=flags.item_optimizer,
        grad_clip=flags.grad_clip,
        accumulate=flags.accumulate,
    )


def _recipe(llama_size: str, strategy: Strategy) -> Recipe:
    return NANO_RECIPE if llama_size == "nano" else PRETRAINED_RECIPES[strategy]


def on_paper(row: LayoutPreset) -> Placement:
    """Returns a row's layout on a mesh without devices."""
    return Placement(row.layout, abstract_mesh(row.layout))


def on_target(row: LayoutPreset) -> Placement:
    """Returns a row's layout on devices to compile for.

    Raises:
        LayoutError: its hardware cannot be compiled for here.
    """
    return Placement(row.layout, make_mesh(row.layout, _devices(row)))


def _devices(row: LayoutPreset) -> Sequence[jax.Device]:
    if row.hardware != "cpu":
        return gpu_devices(hardware(row.hardware), row.num_hosts, row.devices_per_host)
    there = len(jax.devices("cpu"))
    require(
        there >= row.num_devices,
        f"layout {row.name!r} needs {row.num_devices} CPU devices, there are {there}; "
        "wanted XLA_FLAGS=--xla_force_host_platform_device_count="
        f"{row.num_devices} in the environment",
    )
    return jax.devices("cpu")
