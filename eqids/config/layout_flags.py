"""What `python -m sharding` is told; fields are flags, their texts the help."""

import re
from dataclasses import dataclass
from pathlib import Path

from eqids.config.errors import require
from eqids.config.hardware import HardwareName
from eqids.config.model import LlamaSize
from eqids.config.train_flags import Strategy


@dataclass(frozen=True)
class ListConfig:
    """Print the table of named layouts."""

    json: Path | None = None
    """Write the table there too."""


@dataclass(frozen=True)
class MachineConfig:
    """What is trained on what; the flags of show, estimate, prove and plan."""

    llama_size: LlamaSize = "1b"
    """Size of the Llama."""
    hardware: HardwareName = "h100-80gb"
    """The device."""
    devices: str = "1"
    """How many: 8, or 2x8 for two hosts of eight."""
    train: Strategy = "heads"
    """What trains, as for python -m eqids.train."""
    layout: str | None = None
    """A named layout (python -m sharding list), which sets the flags above; data, fsdp
    or tensor; or DATAxFSDPxTENSOR, such as 1x8x1. By default the named layout of these
    flags where there is one, else data."""
    batch_size: int | None = None
    """Rows in a batch, over all devices; by default the named layout's, or the
    recipe's."""
    seq_len: int | None = None
    """Positions in a row; by default as --batch_size."""
    num_items: int | None = None
    """Items in the catalog, by default a million or the named layout's."""
    item_width: int | None = None
    """Size of an item's vector, by default the recipe's."""
    remat: bool | None = None
    """Recompute Llama's blocks in the backward pass, by default as the named layout
    does."""
    json: Path | None = None
    """Write the answer there too."""

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", self.devices) is not None,
            f"--devices is {self.devices!r}, wanted a number, or HOSTSxDEVICES such as "
            "2x8",
        )
        for name in ("batch_size", "seq_len", "num_items", "item_width"):
            value = getattr(self, name)
            require(
                value is None or value >= 1, f"--{name} is {value}, wanted 1 or more"
            )
        require(
            self.json is None or self.json.absolute().parent.is_dir(),
            f"--json {self.json}: its folder does not exist",
        )

    @property
    def hosts(self) -> tuple[int, int]:
        """Returns the number of hosts, and of devices in each."""
        numbers = [int(n) for n in self.devices.split("x")]
        return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


@dataclass(frozen=True)
class ShowLayoutConfig(MachineConfig):
    """Print every array: words, shape, dtype, place, bytes of a device."""


@dataclass(frozen=True)
class EstimateConfig(MachineConfig):
    """Print a device's memory by closed form, in a moment."""


@dataclass(frozen=True)
class ProveConfig(MachineConfig):
    """Compile the train step for the hardware: memory, FLOPs, collectives, bounds.

    Needs no such hardware, but pip install 'eqids[gpu-compile]'.
    """

    all: bool = False
    """Prove every named layout whose proof is not in --json (by default layouts.json)
    yet; other flags are for one layout."""


@dataclass(frozen=True)
class PlanConfig(MachineConfig):
    """Try layouts and batch sizes, keep what fits, rank by tokens a second at best.

    With --layout, its mesh is the only one that is tried.
    """

    prove: bool = False
    """Compile the best few instead of estimating them only."""
    top: int = 10
    """Lines to print."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.top >= 1, f"--top is {self.top}, wanted 1 or more")
