"""The models that `python -m bench train` trains, and their batches."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax

from bench.record import CaseNumbers
from bench.step_options import TrainOptions
from convert import read_config
from eqids.config import (
    LLAMA_PRESETS,
    LlamaConfig,
    LoraConfig,
    ModelConfig,
    Strategy,
    preset_recipe,
)
from eqids.fit.step_config import StepConfig, activations_of
from eqids.model.attention import cudnn_attends
from eqids.planning.abstract import Job


@dataclass(frozen=True)
class Workload:
    """A model and the kind of batches that it is trained on.

    Attributes:
        name: name of the Llama.
        llama: its sizes.
        strategy: what trains.
        dtype: compute dtype of Llama.
        on: random items in full rows, or a dataset's histories.
        batch_size: rows in a batch.
        seq_len: positions in a row.
    """

    name: str
    llama: LlamaConfig
    strategy: Strategy
    dtype: str
    on: Literal["dense", "histories"]
    batch_size: int
    seq_len: int

    def __str__(self) -> str:
        return f"{self.label}, {self.on}, {self.batch_size} x {self.seq_len}"

    @property
    def label(self) -> str:
        """The model, without the batches."""
        return f"{self.name}, {self.strategy}, {self.dtype}"

    @property
    def case(self) -> CaseNumbers:
        """The sizes of a batch."""
        return {"batch": self.batch_size, "seq": self.seq_len}

    def job(self, num_clusters: int, cluster_size: int) -> Job:
        """Returns the training job of a run of this, without dropout."""
        names = (name for name, one in LLAMA_PRESETS.items() if one == self.llama)
        recipe = preset_recipe(next(names, "another"), self.strategy)
        recipe = dataclasses.replace(
            recipe, batch_size=self.batch_size, seq_len=self.seq_len
        )
        sizes = ModelConfig(
            self.llama, num_clusters, cluster_size, recipe.item_width, recipe.adapter,
            lora=LoraConfig() if self.strategy == "lora" else None,
        )  # fmt: skip
        fused = cudnn_attends(self.llama, self.seq_len, self.dtype)
        fused = fused and jax.default_backend() == "gpu"
        kernel: Literal["cudnn", "xla"] = "cudnn" if fused else "xla"
        activations = activations_of(self.dtype, jax.default_backend() == "cpu")
        step = StepConfig(self.strategy, recipe, self.dtype, activations, kernel=kernel)
        return Job(sizes, step)


def workloads_of(options: TrainOptions) -> list[Workload]:
    """Returns all combinations of the flags' values; keys are of the first ones."""
    name: str = "nano" if options.quick else options.llama_size
    llama = LLAMA_PRESETS[name]
    if options.llama_path is not None:
        name, llama = options.llama_path.name, read_config(options.llama_path)
    found = []
    for strategy in options.train:
        for number, dtype in enumerate(options.dtype):
            if "dense" in options.on:
                found += [
                    Workload(name, llama, strategy, dtype, "dense", size, length)
                    for size in options.batch_size
                    for length in options.seq_len
                ]
            if "histories" in options.on and number == 0:
                sizes = options.batch_size[0], options.window
                found.append(
                    Workload(name, llama, strategy, dtype, "histories", *sizes)
                )
    return found
