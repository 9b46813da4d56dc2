"""The parts, their cases on a GPU and on a CPU, and their shares of the time.

A CPU gets toy sizes: they show that every part works, and nothing of its speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from bench.gpu.gpu_cases import (
    AttentionCase,
    CatalogCase,
    GpuCase,
    GpuPlatform,
    LoadedCase,
    ParityCase,
    PeerCase,
    SavedCase,
    ServedCase,
    StepCase,
)
from eqids.config import LlamaSize, Strategy

CaseGroups = tuple[tuple[GpuCase, ...], ...]
"""Cases by the process that measures them, one after the other."""


@dataclass(frozen=True)
class GpuPart:
    """One part of the measurement.

    Attributes:
        does: what it measures, in a sentence.
        module: its module in `bench.gpu`, with the function `measure`.
        shares: by platform, its share of the time, relative to the others'.
        cases: by platform, its cases.
        shares_card: whether another program uses the card too, so that jax must not
            reserve the card's memory.
    """

    does: str
    module: str
    shares: Mapping[GpuPlatform, float]
    cases: Mapping[GpuPlatform, CaseGroups]
    shares_card: bool = False


def _apart(*cases: GpuCase) -> CaseGroups:
    """A process for each case: a process's peak memory is that of its largest case."""
    return tuple((case,) for case in cases)


DOCUMENTED: tuple[tuple[LlamaSize, int], ...] = (("1b", 32), ("3b", 16), ("8b", 8))
"""Sizes and the batches of 64 positions a row that users know for a card of 80 GB."""
UNROLLED = (
    StepCase("1b", "heads", 32, 64, unroll=True),
    StepCase("8b", "lora", 8, 64, unroll=True),
)
"""Two of the steps without a loop over blocks: docs/performance.md says why."""
STEPS: tuple[StepCase, ...] = (
    *(StepCase(s, t, b, 64) for t in get_args(Strategy) for s, b in DOCUMENTED),
    *UNROLLED,
    *(StepCase(s, t, b, 256) for t in get_args(Strategy) for s, b in DOCUMENTED),
)
"""The train steps. Those that do not fit the card by the estimate are not run."""
_TEXT = StepCase("smollm2-135m", "heads", 4, 256, 10_000, tokens_per_item=15)
_DEFAULT = StepCase("nano", "all", 64, 50, 1_682)
_TOY = StepCase("nano", "heads", 2, 16, 500)
_TOY_STEPS = (
    StepCase("nano", "heads", 2, 16, 30_000, unroll=True),
    StepCase("nano", "lora", 2, 16, 500),
    StepCase("nano", "all", 2, 64, 500),
)

PARTS: Mapping[str, GpuPart] = MappingProxyType(
    {
        "kernels": GpuPart(
            "attention of each kernel, forward and backward, against float32",
            "kernels_part",
            {"gpu": 1.0, "cpu": 0.5},
            {
                "gpu": (
                    (
                        AttentionCase(16, 64, 32, 8, 64),
                        AttentionCase(8, 256, 32, 8, 128),
                        AttentionCase(4, 1024, 24, 8, 128),
                    ),
                ),
                "cpu": ((AttentionCase(2, 16, 4, 2, 8),),),
            },
        ),
        "parity": GpuPart(
            "the first losses of two recipes, on this device against float32 on a CPU",
            "parity_part",
            {"gpu": 2.5, "cpu": 2.5},
            {
                "gpu": _apart(ParityCase(_DEFAULT, 20), ParityCase(_TEXT, 20)),
                "cpu": (
                    (
                        ParityCase(StepCase("nano", "all", 4, 16, 200), 3),
                        ParityCase(StepCase("nano", "heads", 2, 32, 200, 3), 3),
                    ),
                ),
            },
        ),
        "train": GpuPart(
            "train steps: speed, share of the peak, memory beside what was predicted",
            "train_part",
            {"gpu": 8.0, "cpu": 2.5},
            {"gpu": _apart(*STEPS), "cpu": (_TOY_STEPS,)},
        ),
        "peers": GpuPart(
            "the frozen step beside transformers and torch, in turns",
            "peers_part",
            {"gpu": 4.0, "cpu": 2.5},
            {
                "gpu": _apart(
                    PeerCase(StepCase("1b", "heads", 32, 64, 1_682)),
                    PeerCase(StepCase("3b", "heads", 16, 64, 1_682)),
                    PeerCase(StepCase("8b", "heads", 8, 64, 1_682)),
                ),
                "cpu": ((PeerCase(_TOY, "aot_eager"),),),
            },
            shares_card=True,
        ),
        "head": GpuPart(
            "the softmax of large catalogs, and exact top-k in them",
            "head_part",
            {"gpu": 3.0, "cpu": 1.5},
            {
                "gpu": _apart(
                    CatalogCase(1_000_000, 384),
                    CatalogCase(10_000_000, 384),
                    CatalogCase(50_000_000, 64),
                ),
                "cpu": ((CatalogCase(30_000, 16, 64, 4),),),
            },
            shares_card=True,
        ),
        "storage": GpuPart(
            "loading a Llama, saving while training, resuming",
            "storage_part",
            {"gpu": 3.0, "cpu": 1.0},
            {
                "gpu": _apart(
                    LoadedCase("1b"),
                    SavedCase(StepCase("1b", "heads", 32, 64)),
                    LoadedCase("3b"),
                    LoadedCase("8b"),
                ),
                "cpu": ((LoadedCase("nano"), SavedCase(_TOY, 4)),),
            },
        ),
        "serve": GpuPart(
            "the server under load beside the bare model, prefixes kept or not",
            "served_part",
            {"gpu": 3.0, "cpu": 4.5},
            {
                "gpu": ((ServedCase("smollm2-135m", 10_000, (1, 4, 16, 64), 4.0),),),
                "cpu": ((ServedCase("nano", 200, (1, 4), 0.5),),),
            },
            shares_card=True,
        ),
        "profile": GpuPart(
            "one train step by kind of kernel",
            "profile_part",
            {"gpu": 1.0, "cpu": 1.0},
            {"gpu": ((StepCase("1b", "heads", 32, 64),),), "cpu": ((_TOY,),)},
        ),
    }
)
"""Every part by its name, in the order in which they run."""
