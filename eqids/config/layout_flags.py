"""The flags of the commands of `python -m sharding`."""

import re
from dataclasses import dataclass
from pathlib import Path

from eqids.config.bounds import ONE_OR_MORE, ZERO_OR_MORE, check_flags
from eqids.config.choices import HardwareName, Strategy
from eqids.config.errors import require
from eqids.config.model import LlamaSize


@dataclass(frozen=True)
class ListConfig:
    """Print the table of named layouts."""

    json: Path | None = None
    """Write the table to this JSON file too."""


@dataclass(frozen=True)
class MachineConfig:
    """A training job and its hardware; the flags of show, estimate, prove and plan."""

    llama_size: LlamaSize = "1b"
    """Size of the Llama."""
    hardware: HardwareName = "h100-80gb"
    """Kind of the devices."""
    devices: str = "1"
    """Number of devices: 8, or 2x8 for two hosts of eight."""
    train: Strategy = "heads"
    """What trains, as for python -m eqids.train."""
    layout: str | None = None
    """How the devices share the work: a named layout (python -m sharding list), which
    sets the flags above; data, fsdp or tensor; or DATAxFSDPxTENSOR, such as 1x8x1. By
    default the named layout with the flags above if there is one, otherwise data."""
    batch_size: int | None = None
    """Rows in a batch, over all devices; by default those of the named layout, or of
    the recipe."""
    seq_len: int | None = None
    """Positions in a row; by default as --batch_size."""
    text_tokens_per_item: int = 0
    """Most tokens of an item's text that follow it, as for python -m eqids.train; by
    default --seq_len is then four times as long."""
    num_items: int | None = None
    """Number of items in the catalog; by default a million, or that of the named
    layout."""
    item_width: int | None = None
    """Size of an item's vector; by default that of the recipe."""
    remat: bool | None = None
    """Recompute Llama's blocks in the backward pass; by default as the named layout
    does."""
    json: Path | None = None
    """Write the answer to this JSON file too."""

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", self.devices) is not None,
            f"--devices is {self.devices!r}, wanted a number, or HOSTSxDEVICES such as "
            "2x8",
        )
        check_flags(self, "batch_size seq_len num_items item_width", ONE_OR_MORE)
        check_flags(self, "text_tokens_per_item", ZERO_OR_MORE)
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
    """Print every array: axes, shape, dtype, sharding, bytes on a device."""


@dataclass(frozen=True)
class EstimateConfig(MachineConfig):
    """Print a device's memory by closed form; takes a moment."""


@dataclass(frozen=True)
class ProveConfig(MachineConfig):
    """Compile the train step for the hardware: memory, FLOPs, collectives, bounds.

    Needs pip install 'eqids[gpu-compile]', and none of the hardware itself.
    """

    all: bool = False
    """Prove every named layout whose proof is not yet in --json (by default
    layouts.json); other flags are for one layout."""


@dataclass(frozen=True)
class PlanConfig(MachineConfig):
    """Try layouts and batch sizes, keep those that fit, rank them by tokens a second.

    The rate is a bound by the hardware's data sheet. With --layout, only its mesh is
    tried.
    """

    prove: bool = False
    """Compile the best few, instead of only estimating them."""
    top: int = 10
    """Number of lines to print."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "top", ONE_OR_MORE)
