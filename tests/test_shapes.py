"""What a run cannot start from is said in flags."""

import dataclasses
from pathlib import Path

import jax
import pytest
from models import TINY
from pairs import SIZES, save_pair, write_bases
from pytest import CaptureFixture
from runs import refused, save_noisy

from convert import save_llama
from eqids import train
from eqids.config import LLAMA_PRESETS, RopeScaling, TrainConfig
from eqids.data import Dataset
from eqids.model import Llama
from eqids.runs.same_sizes import other_sizes


@pytest.fixture(scope="module")
def folder(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a nano run, of runs over a Llama by two strategies, and of another Llama."""
    folder = tmp_path_factory.mktemp("shapes")
    bases = write_bases(folder)
    for name in ("all", "lora"):
        save_pair(folder, name, bases, dataset)
    nano = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", seq_len=16
    )
    save_noisy(folder / "nano run", nano, dataset)
    save_llama(Llama(TINY, key=jax.random.key(0)), folder / "other")
    return folder


EXPORTED = "--train all, or first write its Llama to files: python -m convert"
REFUSED = [
    ("all", "--freeze_llama", "--train all, this run has --train heads; wanted "
     + EXPORTED),
    ("all", "--train heads", "this run has --train heads; wanted " + EXPORTED),
    ("all", "--train lora", "this run has --train lora; wanted " + EXPORTED),
    ("all", "", "this run has --train heads; wanted " + EXPORTED),
    ("nano", "--freeze_llama", "this run has --train heads; wanted " + EXPORTED),
    ("nano", "--train lora", "this run has --train lora; wanted " + EXPORTED),
    ("nano", "--item_width 16",
     "was trained with --item_width 8, this run has --item_width 16; wanted "
     "--item_width 8"),
    ("nano", "--adapter mlp", "--adapter linear, this run has --adapter mlp"),
    ("nano", "--no_tied_items", "--tied_items, this run has --no_tied_items"),
    ("nano", "--llama_size 1b", "--llama_size nano, this run has --llama_size 1b"),
    ("nano", "--train all --llama_path {}/untied",
     "was trained with a Llama of width 64, 2 query heads, heads of 32, "
     "feed-forward width 256, 256 tokens, "),
    ("all", "--train all --llama_size 1b", "is not a Llama of --llama_size 1b: it has "
     "width 16, 2 layers, 4 query heads, 2 key heads, heads of 8"),
    ("all", "--train all --llama_path {}/other", "this run has one of "),
    ("lora", "--lora_rank 4",
     "was trained with --lora_rank 2, this run has --lora_rank 4; wanted --lora_rank "
     "2, --train all, or first merge LoRA"),
    ("lora", "--lora_alpha 7 --lora_targets q v",
     "--lora_alpha 32.0 --lora_targets q k v o gate up down, this run has --lora_alpha "
     "7.0 --lora_targets q v"),
    ("lora", "--train heads", "--train lora, this run has --train heads"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "given", "wanted"), REFUSED)
def test_what_does_not_fit_is_said_in_flags(
    run: str,
    given: str,
    wanted: str,
    folder: Path,
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    start = ["--load_checkpoint", str(folder / f"{run} run"), *SIZES.split()[:2]]
    tokens = [word.format(folder) for word in given.split()]
    more = ["--num_steps", "1", "--checkpoint_dir", str(tmp_path / "new")]
    said = refused(train.main, [*start, *tokens, *more], capsys)
    assert wanted in said and said.count("\n") == 1
    assert not any(word in said for word in ("array", "Config(", "{", "None"))
    assert not (tmp_path / "new").exists()


def test_what_trains_is_printed_if_it_is_chosen_anew(
    folder: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    start = ["--load_checkpoint", str(folder / "nano run"), *SIZES.split()[:2]]
    flags = [*start, "--num_steps", "1", "--checkpoint_dir", str(tmp_path / "new")]
    train.main(flags)
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("taken over from ")
    assert line.endswith("; what trains is chosen anew: --train all")


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(TINY)])
def test_sizes_that_differ_are_said_and_no_others(field: str) -> None:
    was = LLAMA_PRESETS["8b"]
    other = {
        "rope_scaling": RopeScaling("linear", 2.0), "tied": True, "head": 64,
        "num_heads": 64, "num_kv_heads": 16,
    }  # fmt: skip
    value = other[field] if field in other else getattr(was, field) * 2
    old, new = other_sizes(was, dataclasses.replace(was, **{field: value}))
    assert old and new and old != new and ", " not in new
    assert other_sizes(was, was) == ("", "")
