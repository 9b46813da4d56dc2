"""What moved, what may not be written to, and what a run says that cannot go on."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, make_dataset
from pytest import CaptureFixture
from runs import Command, refused, small
from tokens import TEXTS, with_texts, write_tokenizer

import eqids
from convert import __main__ as convert_command
from eqids import catalog, evaluate, recommend, train
from eqids.checkpoints import latest_step
from eqids.config import UserError
from eqids.data import Dataset

OTHER_DATA = ("ml-100k", "eqids.prepare")
"""What would make other data."""


@pytest.fixture(scope="module")
def moved(
    dataset: Dataset, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A run whose dataset moved away; the folder that it had, and the one it has."""
    folder = tmp_path_factory.mktemp("moved")
    was, now = folder / "was", folder / "now"
    shutil.copytree(dataset.path, was)
    train.main(small(was, folder / "run", "--num_steps", "2", "--eval_every", "2"))
    was.rename(now)
    return folder / "run", was, now


READERS: dict[str, tuple[Command, Callable[[Path], list[str]]]] = {
    "evaluate": (evaluate.main, lambda run: ["--checkpoint", str(run)]),
    "recommend": (
        recommend.main, lambda run: ["--checkpoint", str(run), "--user", "user 1"]
    ),
    "items": (
        convert_command.main, lambda run: ["items", str(run), str(run.parent / "items")]
    ),
    "train": (
        train.main,
        lambda run: ["--load_checkpoint", str(run), "--batch_size", "4",
                     "--num_steps", "1", "--checkpoint_dir", str(run.parent / "next")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "another folder"])
@pytest.mark.parametrize("name", READERS)
def test_a_dataset_that_moved_is_named_with_the_flag_that_helps(
    name: str,
    left: str,
    moved: tuple[Path, Path, Path],
    capsys: CaptureFixture[str],
) -> None:
    run, was, now = moved
    if left != "nothing":
        was.mkdir()
    if left == "another folder":
        (was / "notes.txt").write_text("mine")
    command, flags = READERS[name]
    try:
        said = refused(command, flags(run), capsys)
    finally:
        shutil.rmtree(was, ignore_errors=True)
    assert (
        f"{run / '2'} was trained on the dataset {was}, which no longer exists" in said
    )
    assert "--data_dir DIR" in said and said.count("\n") == 1
    assert not any(tokens in said for tokens in OTHER_DATA)
    command([*flags(run), "--data_dir", str(now)])
    for output in ("items", "next"):
        shutil.rmtree(run.parent / output, ignore_errors=True)


def test_the_same_command_says_that_the_dataset_moved(
    moved: tuple[Path, Path, Path], capsys: CaptureFixture[str]
) -> None:
    run, was, now = moved
    more = ["--num_steps", "2", "--eval_every", "2"]
    said = refused(train.main, small(was, run, *more), capsys)
    assert f"the dataset {was}, which no longer exists" in said
    assert "--data_dir DIR" in said
    assert not any(tokens in said for tokens in OTHER_DATA)
    train.main(small(now, run, *more))
    assert "going on from step 2" in capsys.readouterr().out
    with pytest.raises(UserError, match="which no longer exists.*--data_dir"):
        eqids.load(run)
    assert len(eqids.load(run, now).recommend([["item 1"]], k=3)) == 3


def test_a_mistyped_folder_is_reported_without_other_data(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    typo = tmp_path / "typo"
    for command, flags in (
        (train.main, small(typo, tmp_path / "run")),
        (train.main, small(typo, finished)),
        (evaluate.main, ["--checkpoint", str(finished), "--data_dir", str(typo)]),
        (catalog.main, ["show", "--data_dir", str(typo)]),
    ):
        said = refused(command, flags, capsys)
        assert f"{typo} does not exist, wanted a dataset folder, see --data_dir" in said
        assert "ml-100k" not in said
    said = refused(evaluate.main, ["--checkpoint", str(typo)], capsys)
    assert f"{typo}: no such folder" in said and "see --checkpoint" in said
    flags = small(typo, tmp_path / "run", "--llama_path", str(tmp_path / "none"))
    flags[1] = str(make_dataset(tmp_path / "d").path)
    flags += ["--text_tokens_per_item", "2"]
    said = refused(train.main, flags, capsys)
    assert f"{tmp_path / 'none'}: no such folder, wanted a Hugging Face Llama" in said


def test_histories_that_changed_are_reported_in_words(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """A dataset prepared with --catalog: the same items, and other histories."""
    from plays import prepared, write_csv

    items = dataset.items()["item"].tolist()
    rows = [(f"u{n % 9}", items[n % 20], n) for n in range(90)]
    today = write_csv(tmp_path / "today.csv", rows)
    later = prepared(tmp_path, f"csv:{today}", catalog=dataset.path)
    said = refused(train.main, small(later.path, finished), capsys)
    assert "was trained on other histories of the same items than" in said
    assert f"--continue_from {finished} in place of --checkpoint_dir" in said
    for one in (dataset, later):
        assert one.info.dataset_hash[:12] not in said


def test_a_larger_catalog_names_what_brings_the_run_along(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    larger = make_dataset(tmp_path / "larger", num_items=29)
    start = ["--load_checkpoint", str(finished)]
    for command, flags in (
        (train.main, small(larger.path, finished)),
        (train.main, small(larger.path, tmp_path / "run", *start)),
        (evaluate.main, ["--checkpoint", str(finished), "--data_dir",
                         str(larger.path)]),
    ):  # fmt: skip
        said = refused(command, flags, capsys)
        assert "was trained on another catalog than" in said
        assert f"eqids.prepare --catalog OLD ({dataset.path})" in said
        assert "python -m eqids.catalog migrate" in said
        for one in (dataset, larger):
            assert one.info.catalog_id[:12] not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [[], ["--save_every", "1"]])
def test_a_loss_that_is_not_finite_says_which_checkpoints_there_are(
    more: list[str], dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = small(dataset.path, run, "--log_every", "1", "--grad_clip", "1e38",
                  "--learning_rate", "1e38", *more)  # fmt: skip
    said = refused(train.main, flags, capsys)
    newest = latest_step(run)
    assert "try a lower --learning_rate, a lower --grad_clip or" in said
    if newest is None:
        assert not more and f"{run} has no checkpoint yet" in said
    else:
        assert more and f"the newest checkpoint in {run} is of step {newest}" in said
        assert f"--load_checkpoint {run / str(newest)}" in said


def test_a_first_step_that_is_not_finite_is_not_laid_to_the_rate(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    from folders import write_hf
    from safetensors.numpy import load_file, save_file

    write_hf(tmp_path / "llama")
    file = tmp_path / "llama" / "model.safetensors"
    tensors = load_file(file)
    # Finite, and their products in float32 are not.
    save_file({name: 1e30 * values for name, values in tensors.items()}, file)
    flags = small(dataset.path, tmp_path / "run", "--llama_path", str(file.parent))
    said = refused(train.main, [*flags, "--log_every", "1"], capsys)
    assert " at step 1, wanted a finite number: no step has changed a weight" in said
    assert "has no checkpoint yet" in said and "--learning_rate" not in said


READ_ONLY = """
import sys
from pathlib import Path
from eqids.data import open_dataset
from eqids.data.batches.item_texts import tokens_of
said = []
dataset, tokenizer = open_dataset(Path("d")), Path("tokenizer.json")
tokens = tokens_of(dataset, tokenizer, "Up", 3, said.append)
print(tokens.config.tokens)
print(len([x for x in said if "Read-only file system" in x]))
"""


def test_texts_on_a_mount_that_is_read_only_are_read_without_the_cache(
    dataset: Dataset, tmp_path: Path
) -> None:
    mount = "mount --bind d d && mount -o remount,ro,bind d d && "
    tried = ["unshare", "-rm", "sh", "-c"]
    with_texts(dataset, tmp_path / "d", TEXTS)
    write_tokenizer(tmp_path / "tokenizer.json")

    def ran(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*tried, command], cwd=tmp_path, capture_output=True, text=True
        )

    if shutil.which("unshare") is None or ran(mount + "true").returncode:
        pytest.skip("this machine mounts nothing")
    (tmp_path / "read.py").write_text(READ_ONLY)
    read = f"PYTHONPATH={ROOT} {sys.executable} read.py"
    first = ran(mount + read)
    assert first.returncode == 0, first.stderr[-2000:]
    digest, times = first.stdout.split()
    assert times == "1"
    assert list((tmp_path / "d").glob(".*")) == []
    # The same tokens as with the cache.
    assert ran(read).stdout.split() == [digest, "0"]
