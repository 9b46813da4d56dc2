"""The pretrained Llama of a run: fetched, checked, measured and loaded."""

import dataclasses

import convert
from convert.hub import fetch_llama
from eqids.cli import say
from eqids.config import LLAMA_PRESETS, LlamaConfig, RunConfig, TrainConfig, require
from eqids.data.batches.tokens import ItemTokens
from eqids.model import Llama
from eqids.runs.recipe import wants_hub
from eqids.runs.run_tokens import check_vocab
from eqids.runs.same_sizes import other_sizes
from sharding import Placement


def with_llama_path(config: RunConfig) -> RunConfig:
    """Returns the run with the folder of its Llama, fetched from the hub if need be.

    Raises:
        UserError: the folder holds no Llama, or the hub refuses the download.
    """
    flags = config.flags
    if flags.estimate_memory_only:
        return config
    if flags.llama_path is not None:
        convert.check_llama(flags.llama_path)  # before its tokenizer is opened
    if not wants_hub(flags):
        return config
    path = fetch_llama(flags.llama_size, say).absolute()
    return dataclasses.replace(
        config, flags=dataclasses.replace(flags, llama_path=path)
    )


def llama_sizes(flags: TrainConfig, tokens: ItemTokens | None) -> LlamaConfig:
    """Returns the Llama's sizes; from scratch, its vocabulary is that of the tokenizer.

    Raises:
        UserError: the Llama has other sizes than --llama_size, or too small a
            vocabulary.
    """
    if flags.llama_path is None:
        preset = LLAMA_PRESETS[flags.llama_size]
        vocab = 0 if tokens is None else tokens.vocab
        return dataclasses.replace(preset, vocab=max(preset.vocab, vocab))
    found = convert.read_config(flags.llama_path)
    wanted, has = other_sizes(LLAMA_PRESETS[flags.llama_size], found)
    require(
        flags.llama_size == "nano" or not has,
        f"{flags.llama_path} is not a Llama of --llama_size {flags.llama_size}: it has "
        f"{has}, wanted {wanted}; give the folder of one, or no --llama_size",
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
