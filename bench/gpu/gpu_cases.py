"""What the parts of `python -m bench gpu` measure: the sizes of each kind of case."""

from dataclasses import dataclass
from typing import Literal

from eqids.config import LlamaSize, Strategy

GpuPlatform = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class AttentionCase:
    """The sizes of one attention."""

    batch_size: int
    seq_len: int
    num_heads: int
    num_kv_heads: int
    head: int

    def __str__(self) -> str:
        sizes = f"{self.batch_size} x {self.seq_len}"
        return f"{sizes}, {self.num_heads}/{self.num_kv_heads} heads of {self.head}"


@dataclass(frozen=True)
class StepCase:
    """A train step: the Llama, what trains, the batch and the catalog.

    Attributes:
        llama_size: the Llama's size.
        train: what trains.
        batch_size: rows in a batch.
        seq_len: positions in a row.
        num_items: items in the catalog.
        tokens_per_item: text tokens after each item.
        remat: whether blocks are recomputed in the backward pass.
        unroll: whether blocks are compiled one by one instead of as a loop.
    """

    llama_size: LlamaSize
    train: Strategy
    batch_size: int
    seq_len: int
    num_items: int = 1_000_000
    tokens_per_item: int = 0
    remat: bool = False
    unroll: bool = False

    def __str__(self) -> str:
        text = (
            f", {self.tokens_per_item} tokens an item" if self.tokens_per_item else ""
        )
        how = ", recomputed" if self.remat else ""
        how += ", unrolled" if self.unroll else ""
        batch = f"{self.batch_size} x {self.seq_len}"
        return f"{self.llama_size} {self.train}, {batch}{text}{how}"


@dataclass(frozen=True)
class ParityCase:
    """A train step whose first losses are compared between devices."""

    step: StepCase
    num_steps: int

    def __str__(self) -> str:
        return f"{self.step}, {self.num_steps} steps"


@dataclass(frozen=True)
class PeerCase:
    """A train step beside the same in torch.

    Attributes:
        step: the step; its catalog is small, because the peer's softmax is full.
        compiler: the backend of `torch.compile`.
    """

    step: StepCase
    compiler: str = "inductor"

    def __str__(self) -> str:
        return str(self.step)


@dataclass(frozen=True)
class CatalogCase:
    """A catalog whose softmax trains and is searched.

    Attributes:
        num_items: items.
        width: of an item's vector.
        targets: targets in a step.
        queries: queries that are searched together.
    """

    num_items: int
    width: int
    targets: int = 2048
    queries: int = 32

    def __str__(self) -> str:
        return f"{self.num_items:,} x {self.width}"


@dataclass(frozen=True)
class LoadedCase:
    """A Llama that is written as safetensors, and loaded."""

    llama_size: LlamaSize

    def __str__(self) -> str:
        return f"load {self.llama_size}"


@dataclass(frozen=True)
class SavedCase:
    """A run that is saved while it trains, and resumed."""

    step: StepCase
    num_steps: int = 8

    def __str__(self) -> str:
        return f"save {self.step}"


@dataclass(frozen=True)
class ServedCase:
    """A server under load.

    Attributes:
        llama_size: the Llama's size, with random weights.
        num_items: items of a generated dataset.
        clients: numbers of clients that send one request after the other.
        seconds: length of each load.
    """

    llama_size: Literal["nano", "smollm2-135m"]
    num_items: int
    clients: tuple[int, ...]
    seconds: float

    def __str__(self) -> str:
        return f"{self.llama_size}, {self.num_items:,} items"


GpuCase = (
    AttentionCase
    | StepCase
    | ParityCase
    | PeerCase
    | CatalogCase
    | LoadedCase
    | SavedCase
    | ServedCase
)
