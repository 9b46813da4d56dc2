"""Folders that are nearly a Llama: what is wrong with them, and what to do."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import TINY_HF, write_hf
from safetensors.numpy import save_file

from convert import check_llama, read_config
from eqids.config import UserError

FORMATS = {
    "zero_to_fp32.py": "DeepSpeed", "global_step1/mp_rank_00_model_states.pt":
    "DeepSpeed", "_CHECKPOINT_METADATA": "Orbax", "rank0.engine": "TensorRT-LLM",
    "m.mlmodel": "Core ML",
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_others_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x01\x02content")
    with pytest.raises(UserError, match=FORMATS[name]):
        check_llama(tmp_path)


def layers(count: int) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        config = {**TINY_HF, "num_hidden_layers": count}
        (folder / "config.json").write_text(json.dumps(config))

    return write


def added(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        tensors = {name: np.zeros((2, 2), np.float32)}
        save_file(tensors, folder / "model.safetensors")

    return write


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "zeros": (lambda f: (f / "model.safetensors").write_bytes(bytes(900)), "of zero"),
    "pickle": (
        lambda f: (f / "model.safetensors").write_bytes(pickle.dumps([1] * 99, 2)),
        "is a pickle of Python",
    ),
    "error": (
        lambda f: (f / "config.json").write_text('{"error": "Access is gated"}'),
        "the answer of a server .'Access is gated'.",
    ),
    "utf-16": (
        lambda f: (f / "config.json").write_text(json.dumps(TINY_HF), "utf-16"),
        "UTF-16, wanted UTF-8",
    ),
    "few": (layers(3), "of 2 layers, and config.json says num_hidden_layers 3"),
    "many": (layers(1), "of 2 layers, and config.json says num_hidden_layers 1"),
    "peft": (added("base_model.model.model.norm.weight"), "tensors of PEFT"),
    "lora": (added("model.layers.0.mlp.up_proj.lora_A.weight"), "tensors of PEFT"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_message_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    write_hf(tmp_path / "llama")
    write, wanted = BROKEN[name]
    write(tmp_path / "llama")
    with pytest.raises(UserError, match=wanted):
        check_llama(tmp_path / "llama")


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    write_hf(tmp_path / "llama")
    was, path = read_config(tmp_path / "llama"), tmp_path / "llama" / "config.json"
    path.write_text(path.read_text(), "utf-8-sig")
    assert read_config(tmp_path / "llama") == was


def test_for_a_file_without_weights_no_folder_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "plays.csv").write_text("user,item\na,b\n")
    with pytest.raises(UserError, match="is a file, wanted the folder of a"):
        check_llama(tmp_path / "plays.csv")
