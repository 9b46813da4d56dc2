"""Folders and files that are no supported Llama: cause and remedy of each kind."""

import struct
from pathlib import Path

import pytest
from folders import write_hf
from kinds import KINDS, LFS, PULL, explains
from packed import SINGLE
from pytest import CaptureFixture
from runs import refused

from convert import __main__ as convert_command, fingerprint, load_llama, read_config
from convert.diagnosis import EQIDS_FILES
from convert.hf_files import shard_paths
from eqids import prepare as prepare_command, train as train_command
from eqids.checkpoints.manifest import MANIFEST
from eqids.config import UserError, check_content
from eqids.data import Dataset
from eqids.data.info import INFO_FILE


@pytest.mark.parametrize("name", KINDS)
def test_every_reader_names_each_kind(
    name: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    path = KINDS[name][0](tmp_path) or tmp_path
    before = sorted(tmp_path.rglob("*"))

    def check(said: str) -> None:
        assert str(path.parent) in said and "\n" not in said.strip()
        assert explains(said, name), said

    with pytest.raises(UserError) as error:
        load_llama(path)
    check(str(error.value))
    for read in (read_config, shard_paths, fingerprint):
        try:
            read(path)
        except UserError as other:
            check(str(other))
    command = ["hf-to-hf", str(path), str(tmp_path / "new")]
    check(refused(convert_command.main, command, capsys))
    assert sorted(tmp_path.rglob("*")) == before


OURS = ("a run", "a checkpoint", "a dataset")
FILES = ("a GGUF file", "a safetensors file")


@pytest.mark.parametrize("name", [n for n in KINDS if n not in (*OURS, *FILES)])
def test_inspect_says_the_same(
    name: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """As a problem of a Hugging Face folder, or as an error."""
    path = KINDS[name][0](tmp_path) or tmp_path
    if (path / "config.json").is_file():
        convert_command.main(["inspect", str(path)])
        said = capsys.readouterr().out
        assert "problem" in said
    else:
        said = refused(convert_command.main, ["inspect", str(path)], capsys)
    assert explains(said, name), said


@pytest.mark.parametrize(
    "name", ["a GGUF file", "GGUF inside", "PyTorch", "a run", "PEFT", "fp8 by config"]
)
def test_commands_say_it_before_they_look_for_a_tokenizer(
    name: str, tmp_path: Path, dataset: Dataset, capsys: CaptureFixture[str]
) -> None:
    (tmp_path / "made").mkdir()
    path = KINDS[name][0](tmp_path / "made") or tmp_path / "made"
    run = tmp_path / "runs"
    train = ["--data_dir", str(dataset.path), "--checkpoint_dir", str(run)]
    train += ["--llama_path", str(path), "--freeze_llama", "--prompt", "Hello"]
    csv = tmp_path / "plays.csv"
    csv.write_text("user_id,item_id,timestamp\n1,2,1000000000\n")
    prepare = ["--source", f"csv:{csv}", "--data_dir", str(tmp_path / "data")]
    prepare += ["--cluster_vectors", "text", "--llama_path", str(path)]
    for command, given in ((train_command, train), (prepare_command, prepare)):
        said = refused(command.main, given, capsys)
        assert explains(said, name), said
    assert not run.exists() and not (tmp_path / "data").exists()


def test_names_of_our_own_files_are_current() -> None:
    assert set(EQIDS_FILES) == {MANIFEST, INFO_FILE}


def test_a_name_of_the_hub_is_distinguished_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"such folder.*hf download meta-llama/Llama"):
        load_llama("meta-llama/Llama-3.2-1B")
    with pytest.raises(UserError, match=r"such folder, wanted a Hugging Face Llama$"):
        load_llama(tmp_path / "none")


def test_companions_that_are_pointers_are_not_copied(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    write_hf(tmp_path / "llama")
    (tmp_path / "llama/tokenizer.json").write_text(LFS)
    flags = ["hf-to-hf", str(tmp_path / "llama"), str(tmp_path / "new")]
    said = refused(convert_command.main, flags, capsys)
    assert "tokenizer.json is a Git LFS pointer" in said and PULL in said
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


@pytest.mark.parametrize("mark", [b"\x1f\x8b", b"BZh", b"\x10\0", b"  ", b"GGUF"[:2]])
def test_a_header_of_any_length_is_no_archive(tmp_path: Path, mark: bytes) -> None:
    """The first bytes are the header's length, and may look like another format."""
    write_hf(tmp_path / "llama")
    path = tmp_path / "llama" / SINGLE
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    wanted = int.from_bytes(mark, "little")
    wanted += 0 if wanted > size else 1 << 16
    header = data[8 : 8 + size].ljust(wanted)
    path.write_bytes(wanted.to_bytes(8, "little") + header + data[8 + size :])
    assert path.read_bytes().startswith(mark)
    assert load_llama(tmp_path / "llama").config.num_layers == 2


@pytest.mark.parametrize("start", [b"{", b"\xef\xbb\xbf{", b" \n{}", b"\0\0", b"\xff"])
def test_content_is_content(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "a").write_bytes(start)
    check_content(tmp_path / "a")
    (tmp_path / "a").write_bytes(struct.pack("<Q", 400) + b'{"a":' + start)
    check_content(tmp_path / "a", binary=True)
