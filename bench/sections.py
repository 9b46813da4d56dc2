"""The sections of the bench: the flags and the module of each, and what else it has."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bench.gpu.gpu_options import GpuOptions
from bench.options import AllOptions, CompareOptions, Options
from bench.quality_options import QualityOptions
from bench.search_options import RecommendOptions, TopkOptions
from bench.serve_options import ServeOptions
from bench.step_options import HeadOptions, TrainOptions
from bench.storage_options import (
    CheckpointOptions,
    DataOptions,
    LoadOptions,
    PrepareSpeedOptions,
)


@dataclass(frozen=True)
class SectionEntry:
    """One section.

    Attributes:
        options: the class of its flags.
        module: the module whose `measure(options)` measures it; it imports jax.
    """

    options: type[Options]
    module: str


SECTIONS: Mapping[str, SectionEntry] = MappingProxyType(
    {
        "train": SectionEntry(TrainOptions, "bench.train_speed"),
        "head": SectionEntry(HeadOptions, "bench.head"),
        "topk": SectionEntry(TopkOptions, "bench.topk"),
        "load": SectionEntry(LoadOptions, "bench.load"),
        "prepare": SectionEntry(PrepareSpeedOptions, "bench.prepare_speed"),
        "data": SectionEntry(DataOptions, "bench.data"),
        "checkpoint": SectionEntry(CheckpointOptions, "bench.checkpoint_speed"),
        "recommend": SectionEntry(RecommendOptions, "bench.recommend_speed"),
        "serve": SectionEntry(ServeOptions, "bench.serve_speed"),
    }
)
"""Every section, by its name on the command line."""

OTHER_COMMANDS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "quality": QualityOptions,
        "gpu": GpuOptions,
        "all": AllOptions,
        "compare": CompareOptions,
    }
)
"""Commands that are no sections, with their flags. `all` leaves out `quality`, whose
runs take hours, and `gpu`, which has parts of its own."""
