"""Pairs of runs that read texts: the tokenizer comes with the folder."""

import shutil
from pathlib import Path

import pytest
from pairs import STILL
from pytest import CaptureFixture
from runs import refused, small
from tokens import TEXTS, with_texts, write_tokenizer

import eqids
from convert import __main__ as convert_command
from eqids import catalog, evaluate, train
from eqids.checkpoints import read_manifest
from eqids.data import Dataset

WORDS = ["--text_tokens_per_item", "3", "--prompt", "Up", "--seq_len", "32"]


@pytest.fixture(scope="module")
def worded(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a dataset with texts, a run with texts and what was made of it.

    The tokenizer is no longer where the run found it, but beside it.
    """
    folder = tmp_path_factory.mktemp("worded")
    texted = with_texts(dataset, folder / "d", TEXTS)
    tokenizer = write_tokenizer(folder / "mine.json")
    flags = small(texted.path, folder / "run", *WORDS, "--num_steps", "1")
    train.main([*flags, "--tokenizer", str(tokenizer)])
    convert_command.main(["eqids-to-hf", str(folder / "run"), str(folder / "pair")])
    tokenizer.rename(folder / "moved.json")
    return folder


def test_words_come_with_the_folder(
    worded: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    shutil.copytree(worded / "pair", tmp_path / "pair")
    pair = ["--init_from", str(tmp_path / "pair")]
    was = read_manifest(worded / "run" / "1").meta["validation"]
    longer = STILL.replace("--seq_len 16", "--seq_len 32").split()
    flags = [*longer, *WORDS[:-2], "--checkpoint_dir", str(tmp_path / "more")]
    flags += ["--train", "all"]
    train.main(["--data_dir", str(worded / "d"), *flags, *pair])
    more = read_manifest(tmp_path / "more" / "1").meta["validation"]
    assert more["filtered"] == was["filtered"]
    assert more["nll"] == pytest.approx(was["nll"], rel=1e-6)
    opened = eqids.load(tmp_path / "pair").opened
    assert opened.tokens is not None and opened.tokens.config == opened.config.tokens
    (tmp_path / "pair" / "tokenizer.json").unlink()
    said = refused(evaluate.main, pair, capsys)
    assert "which no longer exists: add --tokenizer FILE" in said
    write_tokenizer(tmp_path / "pair" / "tokenizer.json", vocab=280)
    said = refused(evaluate.main, pair, capsys)
    assert "is another tokenizer" in said and "see --tokenizer" in said


def test_a_catalog_brings_a_run_with_words_along_by_its_tokenizer(
    worded: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    data = tmp_path / "d"
    shutil.copytree(worded / "d", data)
    catalog.main(["grow", "--clusters", "1", "--data_dir", str(data)])
    flags = ["migrate", "--data_dir", str(data), "--checkpoint", str(worded / "run")]
    flags += ["--output", str(tmp_path / "next")]
    said = refused(catalog.main, flags, capsys)
    assert "which no longer exists: add --tokenizer FILE" in said
    catalog.main([*flags, "--tokenizer", str(worded / "moved.json")])
    meta = read_manifest(tmp_path / "next" / "1").meta
    assert meta["validation"]["num_users"] > 0
    # And the pair is of the catalog before.
    flags = ["--init_from", str(worded / "pair"), "--data_dir", str(data)]
    said = refused(evaluate.main, flags, capsys)
    assert "was trained on an older version of the catalog" in said
    assert "eqids.catalog migrate" in said and "eqids-to-hf" in said
