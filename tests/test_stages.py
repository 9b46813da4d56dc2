"""What a second stage takes over from the first one's checkpoint, flag by flag."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from models import TINY
from pytest import CaptureFixture
from runs import refused, small
from tokenizers import Tokenizer
from tokens import TEXTS, with_texts, write_tokenizer

import eqids
from convert import save_llama
from eqids import train
from eqids.checkpoints import read_manifest
from eqids.cli import parse
from eqids.config import (
    MODEL_FLAGS,
    RunConfig,
    TrainConfig,
    from_json,
)
from eqids.data import Dataset, open_dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.model import Llama
from eqids.runs.run_tokens import recorded_tokens
from eqids.runs.taken_over_flags import flags_taken_over

PROMPT = "Films, 'oldest' first:"
STILL = "--num_steps 2 --eval_every 2 --learning_rate 1e-3".split()


@pytest.fixture(scope="module")
def first(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a dataset with texts, a Llama with its tokenizer, and stage 1."""
    folder = tmp_path_factory.mktemp("stages")
    texted = with_texts(dataset, folder / "d", TEXTS)
    config = dataclasses.replace(TINY, vocab=300)
    save_llama(Llama(config, key=jax.random.key(0)), folder / "llama")
    write_tokenizer(folder / "llama" / "tokenizer.json")
    flags = ["--llama_path", str(folder / "llama"), "--freeze_llama"]
    flags += ["--text_tokens_per_item", "3", "--prompt", PROMPT]
    flags += ["--seq_len", "64", "--adapter", "linear", "--no_shuffle_ties"]
    train.main(small(texted.path, folder / "1", *flags, *STILL))
    return folder


def config_of(path: Path) -> RunConfig:
    return from_json(RunConfig, read_manifest(path).meta["config"], str(path))


def second(first: Path, folder: Path, *more: str) -> list[str]:
    start = [] if "--load_checkpoint" in more else ["--load_checkpoint"]
    start += [str(first / "1" / "2")] if start else []
    return [*start, "--batch_size", "4", "--checkpoint_dir", str(folder), *STILL, *more]


@pytest.mark.long
def test_a_second_stage_reads_what_the_first_one_read(
    first: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    flags = second(first, tmp_path / "2", "--train", "lora")
    train.main([*flags, "--stop_at", "1"])
    said = capsys.readouterr().out
    (line,) = [x for x in said.splitlines() if x.startswith("taken over from ")]
    assert line.startswith(f"taken over from {first}/1/2: --llama_path {first}/llama, ")
    for tokens in (
        f"--data_dir {first}/d", """--prompt 'Films, '"'"'oldest'"'"' first:'""",
        "--text_tokens_per_item 3", "--seq_len 64", "--item_width 8",
        "--adapter linear", "--no_shuffle_ties", "--dtype float32",
    ):  # fmt: skip
        assert tokens in line
    assert "changed from" not in said and "tokens: " in said
    was, now = config_of(first / "1" / "2"), config_of(tmp_path / "2" / "1")
    assert (was.strategy, now.strategy) == ("heads", "lora")
    assert (now.flags.prompt, now.flags.text_tokens_per_item) == (PROMPT, 3)
    assert now.recipe.seq_len == now.flags.seq_len == 64
    assert not now.flags.shuffle_ties
    # And it read the tokens themselves.
    assert now.tokens == was.tokens and now.tokens is not None
    dataset = open_dataset(first / "d")
    tokens = recorded_tokens(tmp_path / "2" / "1", now, dataset)
    batch = TrainingBatches(dataset, BatchConfig(64, 4), tokens).batch(0)
    engine = Tokenizer.from_file(str(first / "llama" / "tokenizer.json"))
    engine.no_truncation()
    prefix = engine.encode(PROMPT).ids
    assert batch.tokens[0, : len(prefix)].tolist() == prefix
    texts = {
        token
        for text in TEXTS
        for token in engine.encode(text, add_special_tokens=False).ids[:3]
    }
    found = set(np.unique(batch.tokens).tolist()) - {0}
    assert found <= texts | set(prefix) and len(found & texts) > 5
    # The same command goes on, also where the first stage is there no more.
    gone = first / "gone"
    (first / "1").rename(gone)
    try:
        train.main(flags)
    finally:
        gone.rename(first / "1")
    said = capsys.readouterr().out
    assert f"taken over from {tmp_path}/2/1: " in said
    assert "going on from step 1" in said


GIVEN = {
    "train": ["lora"], "prompt": ["None"], "text_tokens_per_item": ["0"],
    "seq_len": ["128"], "item_width": ["16"], "adapter": ["mlp"],
    "tied_items": None, "skip": None, "counts": None, "init_items": ["random"],
    "gap_dropout": ["0.5"],
    "shuffle_ties": None, "request_time": None, "dtype": ["bfloat16"],
    "llama_path": ["{folder}/other"],
    "data_dir": ["{folder}/d2"], "tokenizer": ["{folder}/mine.json"],
    "lora_rank": ["2"], "lora_alpha": ["3"], "lora_targets": ["q", "k"],
    "llama_size": ["1b"], "llama_config": ["{folder}/sizes.json"], "from_scratch": None,
    "text_features": None, "text_llama_path": ["{folder}/other"], "text_width": ["3"],
}  # fmt: skip
"""Every flag that is taken over, given another way."""


def taken(first: Path, *more: str) -> tuple[TrainConfig, str]:
    """The flags of a second stage, and what is said of them."""
    argv, said = second(first, first / "none", *more), list[str]()

    def read(defaults: dict[str, Any]) -> TrainConfig:
        return parse(TrainConfig, argv, "eqids.train", "", defaults)

    return flags_taken_over(read({}), read, said.append), "\n".join(said)


@pytest.mark.parametrize("name", [*GIVEN])
def test_a_flag_that_is_given_changes_what_the_first_stage_had(
    name: str, first: Path
) -> None:
    assert set(GIVEN) == set(MODEL_FLAGS)
    silent, _ = taken(first)
    tokens = GIVEN[name]
    if tokens is None:  # a switch, set the other way
        given = [f"--{'no_' if getattr(silent, name) else ''}{name}"]
    else:
        given = [f"--{name}", *(word.format(folder=first) for word in tokens)]
    found, said = taken(first, *given)
    start = ["--load_checkpoint", "runs/1"]
    alone = parse(TrainConfig, [*start, *given], "eqids.train", "")
    assert getattr(found, name) == getattr(alone, name) != getattr(silent, name)
    # Each stage chooses what trains.
    if name != "train" and "lora" not in name:
        (line,) = [x for x in said.splitlines() if x.startswith("changed from ")]
        assert line.startswith(f"changed from {first}/1/2: --") and given[0] in line
    # Nothing else changes, but what goes with it.
    together = {"llama_path", "llama_config", "from_scratch", "llama_size"}
    for other in set(MODEL_FLAGS) - {name} - (together if name in together else set()):
        assert getattr(found, other) == getattr(silent, other), other
    # What is given as it was is neither taken over nor changed.
    same, said = taken(first, "--seq_len", "64")
    assert same == taken(first)[0] and "--seq_len" not in said


def test_words_that_are_turned_off_are_off(
    first: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    off = ["--text_tokens_per_item", "0", "--prompt", "None"]
    train.main(second(first, tmp_path / "2", *off))
    said = capsys.readouterr().out
    assert "--text_tokens_per_item 0 (it was --text_tokens_per_item 3)" in said
    config = config_of(tmp_path / "2" / "2")
    assert config.tokens is None and config.flags.prompt is None


def test_what_a_second_stage_needs_and_does_not_find_is_named(
    first: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    def refusal(*more: str) -> str:
        said = refused(train.main, second(first, tmp_path / "2", *more), capsys)
        assert said.count("\n") == 1 and "ml-100k" not in said
        assert not (tmp_path / "2").exists()
        return said

    for name, flag in (("d", "--data_dir DIR"), ("llama", "--llama_path DIR")):
        (first / name).rename(first / "moved")
        try:
            said = refusal()
            assert f"{first / name}, which no longer exists" in said
            assert flag in said and "prepare" not in said
            _, now = taken(first, f"--{flag.split()[0][2:]}", str(first / "moved"))
            assert f"({flag.split()[0]} {first / name})" not in now
        finally:
            (first / "moved").rename(first / name)
    tokenizer = first / "llama" / "tokenizer.json"
    tokenizer.rename(first / "moved.json")
    try:
        assert "has no tokenizer.json: wanted --tokenizer FILE" in refusal()
        other = write_tokenizer(tmp_path / "other.json", vocab=280)
        said = refusal("--tokenizer", str(other))
        assert "another tokenizer" in said and "see --tokenizer" in said
    finally:
        (first / "moved.json").rename(tokenizer)
    said = refusal("--load_checkpoint", str(tmp_path / "none"))
    assert f"{tmp_path / 'none'}: no such folder" in said
    assert "see --load_checkpoint" in said


def test_other_texts_of_the_same_items_are_reported(
    first: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    with_texts(open_dataset(first / "d"), tmp_path / "d", ["Other texts"])
    train.main(second(first, tmp_path / "2", "--data_dir", str(tmp_path / "d")))
    assert "has other texts of items than" in capsys.readouterr().err


@pytest.mark.long
def test_the_estimate_of_memory_is_that_of_what_is_taken_over(
    first: Path, capsys: CaptureFixture[str]
) -> None:
    def estimated(*flags: str) -> str:
        sizes = ["--estimate_memory_only", "--train", "lora", "--batch_size", "4"]
        train.main([*sizes, *flags])
        return re.sub(r"in \d+ s", "in 1 s", capsys.readouterr().out)

    taken, said = estimated("--load_checkpoint", str(first / "1" / "2")).split("\n", 1)
    assert taken.startswith(f"taken over from {first}/1/2: ")
    flags = ["--llama_path", str(first / "llama"), "--data_dir", str(first / "d")]
    flags += ["--seq_len", "64", "--item_width", "8", "--adapter", "linear"]
    flags += ["--text_tokens_per_item", "3", "--prompt", PROMPT]
    shorter = ["32" if word == "64" else word for word in flags]
    assert said == estimated(*flags) != estimated(*shorter)


def test_paths_are_recorded_so_that_every_folder_finds_them(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(first)
    flags = ["--llama_path", "llama", "--tokenizer", "llama", "--freeze_llama"]
    flags += ["--text_tokens_per_item", "3", "--load_checkpoint", "1"]
    flags += ["--adapter", "linear", "--num_steps", "2", "--stop_at", "1"]
    train.main(small(Path("d"), tmp_path / "2", *flags))
    path = tmp_path / "2" / "1"
    recorded = config_of(path).flags
    assert recorded.llama_path == recorded.tokenizer == first / "llama"
    assert recorded.load_checkpoint == first / "1"
    monkeypatch.chdir(tmp_path)
    assert len(eqids.load(path).recommend([["item 1"]], k=3)) == 3
