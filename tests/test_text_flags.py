"""Which runs have text columns, which are refused, and the memory that they need."""

import shutil
from pathlib import Path

import pytest
from models import NOWHERE, TINY
from pytest import CaptureFixture
from runs import refused, small
from text_runs import flags_of
from tokens import with_texts

from eqids import train
from eqids.config import (
    LLAMA_PRESETS,
    NANO_RECIPE,
    RunConfig,
    TrainConfig,
    UserError,
)
from eqids.data import Dataset
from eqids.data.facts import facts_of
from eqids.planning.abstract import abstract_run, job_of_run
from eqids.planning.memory import estimate
from eqids.runs.new_model import model_config
from eqids.runs.recipe import resolved
from eqids.runs.text_features import with_text_features


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--no_text_features"], "--text_llama_path is for text columns"),
        (["--init_items", "text", "--llama_path", "{llama}"], "--init_items text"),
        (["--text_width", "14"], "there are 14 text columns, wanted an item width"),
    ],
)
def test_flags_that_contradict_text_features_are_refused(
    more: list[str], said: str, loyal: Dataset, text_llama: Path, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    more = [word.replace("{llama}", str(text_llama)) for word in more]
    flags = flags_of(loyal.path, tmp_path / "run", text_llama, *more)
    assert said in refused(train.main, flags, capsys)


def test_text_features_need_texts_a_llama_and_a_tokenizer(
    loyal: Dataset, text_llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    mute = with_texts(dataset, tmp_path / "mute", [""])
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(text_llama / name, bare)

    def decided(data: Dataset, **flags: object) -> RunConfig:
        given = TrainConfig(data_dir=data.path, **flags)  # type: ignore[arg-type]
        return with_text_features(resolved(given, facts_of(data)), data, None)

    on = decided(loyal, llama_path=text_llama)
    assert on.flags.text_features and on.encoding_width == TINY.width
    assert (on.recipe.item_width, on.recipe.text_width) == (384 + 128, 128)
    on = decided(loyal, text_llama_path=text_llama)
    assert on.recipe.item_width == NANO_RECIPE.item_width + 128
    on = decided(loyal, text_llama_path=text_llama, item_width=20)
    assert (on.recipe.item_width, on.recipe.text_width) == (20, 10)
    for off in (
        decided(loyal),
        decided(mute, llama_path=text_llama),
        decided(loyal, llama_path=bare),
        decided(loyal, llama_path=text_llama, text_features=False),
        decided(loyal, llama_path=text_llama, init_items="text"),
    ):
        assert not off.flags.text_features and off.recipe.text_width == 0
        assert off.encoding_width == 0
    for data, folder, said in (
        (mute, text_llama, "no item of"),
        (loyal, bare, "has no tokenizer.json"),
    ):
        with pytest.raises(UserError, match=said):
            decided(data, text_llama_path=folder)
        with pytest.raises(UserError, match=f"--text_features is for .*{said}"):
            decided(data, llama_path=folder, text_features=True)


def test_text_features_that_are_asked_for_need_a_pretrained_llama(
    loyal: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    flags = small(loyal.path, tmp_path / "run", "--text_features")
    assert refused(train.main, flags, capsys) == (
        "error: --text_features is for text columns of items, and there is no "
        "pretrained Llama; wanted --text_llama_path DIR\n"
    )


def test_memory_is_estimated_to_the_byte_of_the_arguments(
    loyal: Dataset, text_llama: Path
) -> None:
    given = TrainConfig(
        data_dir=loyal.path, text_llama_path=text_llama, batch_size=4, seq_len=8,
        item_width=14, text_width=6, item_optimizer="lazy_adam", counts=False,
    )  # fmt: skip
    config = with_text_features(resolved(given, facts_of(loyal)), loyal, None)
    sizes = model_config(config, loyal, LLAMA_PRESETS["nano"])
    job = job_of_run(config, sizes)
    run = abstract_run(job, NOWHERE)
    memory = estimate(job, run)
    compiled = run.step.lower(*run.args).compile().memory_analysis()
    assert memory.arguments == compiled.argument_size_in_bytes
    places = loyal.item_valid.size
    assert memory.frozen == places + 4 * (places * 6 + TINY.width * (6 + 1))
