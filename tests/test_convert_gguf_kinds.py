"""Files that are no GGUF of a Llama: cause and remedy of each kind."""

import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from folders import write_hf
from ggufs import METADATA, SHAPES, write_gguf
from kinds import ANNEX, GET, HTML, LFS, PULL
from packed import SINGLE
from pytest import CaptureFixture
from runs import refused

from convert import __main__ as convert_command
from convert.gguf_llama import gguf_to_hf
from convert.outputs import FLOATS
from eqids.config import UserError


def gguf_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write_gguf(path)
        path.write_bytes(change(path.read_bytes()))

    return make


def gguf_with(**changes: Any) -> Callable[[Path], None]:
    return lambda path: write_gguf(path, **changes)


def swapped(data: bytes) -> bytes:
    return data[:4] + struct.pack(">I", 3) + data[8:]


GGUF_KINDS: Mapping[str, tuple[Callable[[Path], object], str, str]] = {
    "Git LFS": (lambda p: p.write_text(LFS), "Git LFS pointer", PULL),
    "git-annex": (lambda p: p.write_text(ANNEX), "git-annex pointer", GET),
    "HTML": (lambda p: p.write_text(HTML), "web page", "download"),
    "nothing": (lambda p: p.write_text(""), "is empty", "download"),
    "zip": (lambda p: p.write_bytes(b"PK\3\4"), "packed as zip", "unpack"),
    "big-endian": (
        gguf_bytes(swapped), "big-endian GGUF", "gguf-convert-endian .*a.gguf little"),
    "version 1": (
        gguf_bytes(lambda d: d[:4] + struct.pack("<I", 1) + d[8:]), "version 1",
        "convert the model again"),
    "before GGUF": (
        lambda p: p.write_bytes(b"tjgg" + bytes(100)), "from before GGUF",
        "convert_llama_ggml_to_gguf.py"),
    "a part": (
        gguf_with(general={"split.count": 3, "split.no": 1}), "one of 3 parts",
        "llama-gguf-split --merge"),
    "an adapter": (
        gguf_with(general={"general.type": "adapter"}), "'adapter'",
        "llama-export-lora -m BASE"),
    "a projector": (
        gguf_with(general={"general.type": "mmproj"}), "'mmproj', wanted 'model'",
        "the weights of a Llama"),
    "another architecture": (
        gguf_with(arch="gemma2"), "general.architecture is 'gemma2'", "Llama 2"),
    "experts": (
        gguf_with(metadata={**METADATA, "expert_count": 8}), "mixture of experts",
        "wanted a Llama"),
    "another type": (
        gguf_with(kind="Q5_0"), "has type Q5_0, wanted one of F32",
        "llama-quantize --allow-requantize .*a.gguf FILE F16"),
    "a folder": (
        lambda p: (p.mkdir(), write_gguf(p / "x.gguf", shapes=SHAPES)),
        "not a file but a folder", "give .*x.gguf"),
}  # fmt: skip


@pytest.mark.parametrize("name", GGUF_KINDS)
def test_each_kind_of_gguf_is_named(
    name: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    make, cause, remedy = GGUF_KINDS[name]
    path = tmp_path / "a.gguf"
    make(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=cause) as error:
        gguf_to_hf(
            path, tmp_path / "new", dtype=FLOATS["float32"], max_shard_bytes=10**9
        )
    assert re.search(remedy, str(error.value)), str(error.value)
    assert "a.gguf" in str(error.value) and "\n" not in str(error.value)
    flags = ["gguf-to-hf", str(path), str(tmp_path / "new")]
    assert re.search(cause, refused(convert_command.main, flags, capsys))
    assert sorted(tmp_path.rglob("*")) == before


READABLE = ("a part", "an adapter", "a projector", "another architecture", "experts",
            "another type")  # fmt: skip
"""Kinds whose tensors `inspect` lists although they cannot be converted."""


@pytest.mark.parametrize("name", [n for n in GGUF_KINDS if n != "a folder"])
def test_inspect_says_the_same(
    name: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    make, cause, remedy = GGUF_KINDS[name]
    path = tmp_path / "a.gguf"
    make(path)
    if name in READABLE:
        convert_command.main(["inspect", str(path)])
        said = capsys.readouterr().out
        assert "token_embd.weight" in said and "problem" in said
    else:
        said = refused(convert_command.main, ["inspect", str(path)], capsys)
    assert re.search(cause, said) and re.search(remedy, said), said


def test_safetensors_given_as_gguf_name_their_folder(tmp_path: Path) -> None:
    write_hf(tmp_path / "llama")
    with pytest.raises(UserError, match="its folder, .*llama, may be one of Hugging"):
        gguf_to_hf(
            tmp_path / "llama" / SINGLE, tmp_path / "new",
            dtype=FLOATS["float32"], max_shard_bytes=10**9,
        )  # fmt: skip
