"""A corpus of Hugging Face folders, each with one thing broken."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from folders import random_tensors, write_hf
from safetensors.numpy import load_file, save_file

Break = Callable[[Path], None]
"""Breaks a valid folder of one safetensors file, or of three."""

SINGLE, INDEX, CONFIG = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
)
KINDS = [key for key in random_tensors(tied=False) if "layers.1" not in key]
"""One tensor of every kind."""


def corpus() -> dict[str, tuple[int, Break]]:
    """Returns by name how many shards a folder has, and how to break it."""
    found = {name: (1, way) for name, way in [*_files(), *_tensors(), *_configs()]}
    found |= {name: (3, way) for name, way in _indices()}
    return found


def _files() -> Iterator[tuple[str, Break]]:
    """Yields breaks of the file of weights."""
    for percent in (0, 1, 2, 5, 10, 20, 30, 50, 70, 90, 99):
        yield f"cut to {percent}%", _bytes(lambda b, p=percent: b[: len(b) * p // 100])
    yield "cut by a byte", _bytes(lambda data: data[:-1])
    yield "a byte more", _bytes(lambda data: data + b"\0")
    for size in (0, 1, 2**24, 100_000_001, 2**40, 2**63, 2**64 - 1):
        head = struct.pack("<Q", size)
        yield f"header of {size} bytes", _bytes(lambda data, h=head: h + data[8:])
    yield "another kind of file", _bytes(lambda data: b"PK\x03\x04" + data[4:])
    yield "a pickle", _bytes(lambda data: b"\x80\x04cbuiltins\nprint\n.")
    for name, text in {
        "no JSON": b"{", "a list": b"[]", "no text": b"\xff\xfe{}", "null": b"null",
        "deep": b"[" * 100_000,
    }.items():  # fmt: skip
        whole = struct.pack("<Q", len(text)) + text
        yield f"header is {name}", _bytes(lambda data, w=whole: w + bytes(1000))
    key = KINDS[0]
    for name, change in {
        "overlap": {"data_offsets": [0, 8]},
        "before the file": {"data_offsets": [-4, 4]},
        "past the file": {"data_offsets": [0, 10**12]},
        "backwards": {"data_offsets": [64, 0]},
        "no offsets": {"data_offsets": None},
        "unknown dtype": {"dtype": "F7"},
        "dtype is a number": {"dtype": 32},
        "negative shape": {"shape": [-2, 16]},
        "shape past 2**64": {"shape": [2**40, 2**40]},
        "shape of another size": {"shape": [3, 3]},
        "shape is a text": {"shape": "many"},
    }.items():
        yield f"tensor with {name}", _header(lambda h, c=change: h[key].update(c))
    yield "no tensors", _header(lambda header: header.clear())
    yield "the file is a folder", _folder


def _tensors() -> Iterator[tuple[str, Break]]:
    """Yields breaks of a tensor of every kind."""
    for key in KINDS:
        yield f"{key} missing", _weights(lambda w, k=key: w.pop(k))
        yield (
            f"{key} misshapen",
            _weights(lambda w, k=key: w.update({k: w[k][..., 1:]})),
        )
        yield (
            f"{key} of integers",
            _weights(lambda w, k=key: w.update({k: w[k].astype(np.int32)})),
        )
        for value in (np.nan, np.inf):
            yield (
                f"{key} with {value}",
                _weights(lambda w, k=key, v=value: w[k].reshape(-1).__setitem__(-1, v)),
            )
    yield "a tensor too many", _weights(lambda w: w.update(more=np.zeros(3)))


def _configs() -> Iterator[tuple[str, Break]]:
    """Yields breaks of config.json."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads",
             "intermediate_size", "vocab_size")  # fmt: skip
    for name in sizes:
        for value in (None, 0, -1, 3.5, "16", True, 2**31 - 1, 10**30):
            yield f"{name} is {value!r}", _config({name: value})
    for name, value in {
        "architectures": ["MistralForCausalLM"], "model_type": "gemma",
        "hidden_act": "gelu", "attention_bias": True, "mlp_bias": True,
        "rms_norm_eps": "small", "rope_theta": "10k", "num_key_value_heads": 3,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0},
        "rope_parameters": ["default"],
    }.items():  # fmt: skip
        yield f"{name} is {value!r}", _config({name: value})
    yield "rope without a factor", _config({"rope_scaling": {"rope_type": "llama3"}})
    scaling = {"rope_type": "llama3", "factor": "eight"}
    yield "rope factor is a text", _config({"rope_scaling": scaling})
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": "one"}
    yield "rope band is a text", _config({"rope_scaling": scaling})
    twice = b'{"hidden_size": 16, "hidden_size": 16}'
    for name, text in {
        "empty": b"", "no JSON": b"{", "a list": b"[]", "no text": b"\xff\xfe",
        "deep": b'{"a":' * 100_000, "twice": twice,
    }.items():  # fmt: skip
        yield f"config is {name}", _write(CONFIG, text)
    yield "config of a gigabyte", _huge
    yield "no config", lambda folder: (folder / CONFIG).unlink()


def _indices() -> Iterator[tuple[str, Break]]:
    """Yields breaks of an index of three shards, and of its files."""
    last = "model-00003-of-00003.safetensors"
    yield "a shard is missing", lambda folder: _shards(folder)[1].unlink()
    for name in ("../outside.safetensors", "/etc/passwd", "a/b.safetensors", "", ".."):
        yield f"index names {name!r}", _indexed(lambda i, n=name: _rename(i, n))
    for value in (None, 3, ["x"], {}):
        yield f"index names {value!r}", _indexed(lambda i, v=value: _rename(i, v))
        yield (
            f"weight_map is {value!r}",
            _indexed(lambda i, v=value: i.update(weight_map=v)),
        )
    yield "no weight_map", _indexed(lambda index: index.clear())
    for name, text in {
        "empty": b"", "no JSON": b"{", "a list": b"[]", "no text": b"\xff\xfe",
        "deep": b'{"a":' * 100_000, "twice": b'{"weight_map": {}, "weight_map": {}}',
    }.items():  # fmt: skip
        yield f"index is {name}", _write(INDEX, text)
    yield "a shard is another's copy", _copied
    yield "a shard is a link out", _link
    yield "a shard is cut", lambda folder: _cut(_shards(folder)[2])
    yield (
        "index leaves a shard out",
        _indexed(
            lambda i: i.update(
                weight_map={k: v for k, v in i["weight_map"].items() if v != last}
            )
        ),
    )


def _bytes(change: Callable[[bytes], bytes]) -> Break:
    def apply(folder: Path) -> None:
        path = folder / SINGLE
        path.write_bytes(change(path.read_bytes()))

    return apply


def _header(change: Callable[[dict[str, Any]], object]) -> Break:
    def changed(data: bytes) -> bytes:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return _bytes(changed)


def _weights(change: Callable[[dict[str, np.ndarray]], object]) -> Break:
    def apply(folder: Path) -> None:
        weights = {k: v.copy() for k, v in load_file(folder / SINGLE).items()}
        change(weights)
        save_file(
            {k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / SINGLE
        )

    return apply


def _config(values: dict[str, Any]) -> Break:
    def apply(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | values))

    return apply


def _indexed(change: Callable[[dict[str, Any]], object]) -> Break:
    def apply(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index)
        (folder / INDEX).write_text(json.dumps(index))

    return apply


def _rename(index: dict[str, Any], name: Any) -> None:
    where = index["weight_map"]
    where[next(iter(where))] = name


def _write(name: str, data: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(data) and None


def _huge(folder: Path) -> None:
    with (folder / CONFIG).open("ab") as file:
        file.truncate(1 << 30)  # sparse


def _folder(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / SINGLE).mkdir()


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _copied(folder: Path) -> None:
    one, two, _ = _shards(folder)
    two.write_bytes(one.read_bytes())


def _link(folder: Path) -> None:
    shard = _shards(folder)[0]
    outside = folder.parent / "outside.safetensors"
    shard.rename(outside)
    shard.symlink_to(outside)


def write_sound(folder: Path, shards: int) -> None:
    """Writes the valid folder that is broken afterwards."""
    write_hf(folder, shards=shards)
