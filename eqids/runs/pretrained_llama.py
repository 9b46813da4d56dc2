"""The pretrained Llama of a run: fetched, checked, measured and loaded."""

import dataclasses

import convert
from convert.hub import fetch_llama
from eqids.cli import say
from eqids.config import (
    LLAMA_PRESETS,
    SCRATCH_SIZES,
    LlamaConfig,
    RunConfig,
    TrainConfig,
    require,
)
from eqids.data.batches.tokens import ItemTokens
from eqids.model import Llama
from eqids.runs.recipe import scratch_sizes, wants_hub
from eqids.runs.run_tokens import check_vocab
from eqids.runs.same_sizes import other_sizes
from sharding import Placement


def with_llama_path(flags: TrainConfig) -> TrainConfig:
    """Returns a run's flags with the folder of its Llama, fetched from the hub if need
    be.

    Raises:
        UserError: the folder holds no Llama, or the hub refuses the download.
    """
    if flags.estimate_memory_only:
        return flags
    if flags.llama_path is not None:
        convert.check_llama(flags.llama_path)  # before its tokenizer is opened
    if not wants_hub(flags):
        return flags
    assert flags.llama_size is not None
    path = fetch_llama(flags.llama_size, say).absolute()
    return dataclasses.replace(flags, llama_path=path)


def llama_sizes(flags: TrainConfig, tokens: ItemTokens | None) -> LlamaConfig:
    """Returns the Llama's sizes; from scratch, its vocabulary is that of the tokenizer.

    Args:
        flags: the run's flags, which name a Llama.
        tokens: the tokens of the items' texts, or none.

    Raises:
        UserError: the Llama has other sizes than --llama_size, or too small a
            vocabulary.
    """
    if flags.llama_path is None:
        small, size = scratch_sizes(flags), flags.llama_size
        preset = LLAMA_PRESETS[size] if small is None and size else small
        assert preset is not None, "the recipe chooses a size"
        vocab = 0 if tokens is None else tokens.vocab
        return dataclasses.replace(preset, vocab=max(preset.vocab, vocab))
    found, size = convert.read_config(flags.llama_path), flags.llama_size
    # A size from scratch is that of a run whose weights this folder may hold.
    if size is not None and size not in SCRATCH_SIZES:
        wanted, has = other_sizes(LLAMA_PRESETS[size], found)
        require(
            not has,
            f"{flags.llama_path} is not a Llama of --llama_size {size}: it has {has}, "
            f"wanted {wanted}; give the folder of one, or no --llama_size",
        )
    if tokens is not None:
        check_vocab(tokens, found)
    return found


def load_pretrained(
    config: RunConfig, put: Placement
) -> tuple[Llama | None, str | None]:
    """Returns the pretrained Llama and its fingerprint; both None for a Llama from
    scratch."""
    path = config.flags.llama_path
    if path is None:
        return None, None
    say(f"loading {path}")
    dtype = "float32" if config.strategy == "all" else config.dtype
    llama = convert.load_llama(path, dtype, put, head=False)
    return llama, convert.fingerprint(path)
