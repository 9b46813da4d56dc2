"""Folders and files that are no supported Llama, one of every kind."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from conftest import make_dataset
from folders import TINY_HF, write_hf
from ggufs import write_gguf
from packed import QUANTIZED, SINGLE, Make, quantized, sound
from saved import run_of

LFS = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 2200119864\n"
)
ANNEX = "/annex/objects/SHA256E-s2200119864--4d7a2146.safetensors\n"
HTML = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
INDEX = "model.safetensors.index.json"


def files(config: Any = None, **contents: bytes | str) -> Make:
    """Files with these contents; `__` means a dot and `___` a slash."""

    def make(folder: Path) -> None:
        if config is not None:
            (folder / "config.json").write_text(json.dumps(TINY_HF | config))
        for name, content in contents.items():
            path = folder / name.replace("___", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            path.write_bytes(data)

    return make


def instead(name: str, content: str, shards: int = 1) -> Make:
    """A valid folder in which one file has another content."""

    def make(folder: Path) -> Path:
        write_hf(folder / "llama", shards=shards)
        (folder / "llama" / name).write_text(content)
        return folder / "llama"

    return make


def link_to(target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / SINGLE).unlink()
        (folder / SINGLE).symlink_to(target)

    return change


def architecture(name: str, model_type: str) -> Make:
    return quantized(architectures=[name], model_type=model_type)


def put_below(names: str, to: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        paths = list(folder.glob(names))
        (folder / to).mkdir(parents=True)
        for path in paths:
            path.rename(folder / to / path.name)

    return change


def cache_of_the_hub(folder: Path) -> Path:
    top = folder / "models--meta-llama--Llama-3.2-1B"
    (top / "refs").mkdir(parents=True)
    (top / "refs/main").write_text("abc")
    (top / "snapshots").mkdir()
    for revision in ("aaa", "abc"):
        write_hf(top / "snapshots" / revision)
    return top


def gguf_as_path(folder: Path) -> Path:
    write_gguf(folder / "a.gguf")
    return folder / "a.gguf"


def gguf_inside(folder: Path) -> None:
    write_gguf(folder / "llama.Q4_1.gguf")


def run_inside(folder: Path) -> Path:
    return run_of(folder / "run", {4: 0.5})


def checkpoint_inside(folder: Path) -> Path:
    return run_of(folder / "run", {4: 0.5}) / "4"


def dataset_inside(folder: Path) -> Path:
    return make_dataset(folder / "data").path


def partial(folder: Path) -> None:
    cache = folder / ".cache/huggingface/download"
    cache.mkdir(parents=True)
    (cache / "model.safetensors.abc.incomplete").write_bytes(b"\0")
    (folder / SINGLE).unlink()


def partial_in_cache(folder: Path) -> Path:
    path = cache_of_the_hub(folder) / "snapshots/abc"
    (path / SINGLE).unlink()
    (path.parent.parent / "blobs").mkdir()
    (path.parent.parent / "blobs/123.incomplete").write_bytes(b"\0")
    return path


ADAPTER = json.dumps({"base_model_name_or_path": "org/base", "peft_type": "LORA"})
PULL = "run `git lfs pull` in"
GET = "run `git annex get"
HF_FORMAT = "download the same model in Hugging Face's format"

KINDS: Mapping[str, tuple[Make, str, str]] = {
    **QUANTIZED,
    # Files that point to others.
    **{
        f"Git LFS: {name}": (instead(name, LFS, shards), f"{name} is a Git LFS", PULL)
        for name, shards in (
            (SINGLE, 1), ("config.json", 1), (INDEX, 3),
            ("model-00002-of-00003.safetensors", 3),
        )
    },
    "git-annex: model.safetensors": (instead(SINGLE, ANNEX), "git-annex pointer", GET),
    "git-annex: config.json": (instead("config.json", ANNEX), "git-annex pointer", GET),
    "git-annex: a link": (
        sound(link_to("../.git/annex/objects/Zx/12/a/a")), "is not there", GET),
    "a link to nothing": (
        sound(link_to("../../blobs/123")), "which is not there", "download"),
    "DVC": (
        sound(lambda f: (f / SINGLE).rename(f / f"{SINGLE}.dvc")), "of DVC",
        "dvc pull model.safetensors.dvc"),
    "Xet": (instead(SINGLE, "# xet version 0\nfilesize = 3\n"), "Xet", "hf download"),
    "HTML: model.safetensors": (instead(SINGLE, HTML), "web page", "download"),
    "HTML: config.json": (instead("config.json", HTML), "web page", "download"),
    "a sentence of the hub": (
        instead(SINGLE, "Entry not found, and no more"), "holds text", "download"),
    "nothing: model.safetensors": (instead(SINGLE, ""), "is empty", "download"),
    "nothing: config.json": (instead("config.json", ""), "is empty", "download"),
    "gzip": (
        sound(lambda f: (f / SINGLE).write_bytes(b"\x1f\x8b\x08\0")), "packed as gzip",
        "unpack it"),
    "cut off": (
        sound(lambda f: (f / SINGLE).write_bytes((f / SINGLE).read_bytes()[:-9])),
        "is not whole safetensors", "download it again"),
    # Other formats, and too little of ours.
    "PyTorch": (
        files({}, pytorch_model__bin=b"PK"), "PyTorch .pytorch_model.bin",
        r"save_pretrained\(DIR\)"),
    "PyTorch shards": (
        files({}, **{"pytorch_model-1-of-2__bin": b"P",
                     "pytorch_model-2-of-2__bin": b"P"}),
        "and 1 more", r"save_pretrained\(DIR\)"),
    "Meta's": (
        files(params__json="{}", consolidated__00__pth=b"PK"),
        "Meta's original weights .consolidated.00.pth", HF_FORMAT),
    "Meta's settings alone": (files(params__json="{}"), "params.json", HF_FORMAT),
    "consolidated.safetensors": (
        files({}, consolidated__safetensors=b"\x10\0"), "original weights", HF_FORMAT),
    **{
        f"a file of {suffix}": (
            files({}, **{f"model__{suffix}": b"P"}), rf"\(model.{suffix}\)", way)
        for suffix, way in (
            ("pt", "write a Hugging"), ("pth", "write a Hugging"),
            ("ckpt", "write a Hugging"), ("nemo", "write a Hugging"),
            ("distcp", "accelerate merge-weights"), ("bin", "save_pretrained"),
        )
    },
    "OpenVINO": (files({}, openvino_model__bin=b"O"), "OpenVINO", "made from"),
    "TensorFlow": (files({}, tf_model__h5=b"H"), "TensorFlow", "from_tf=True"),
    "Flax": (files({}, flax_model__msgpack=b"F"), "Flax", "from_flax=True"),
    "ONNX": (files({}, onnx___model__onnx=b"O"), "ONNX", "made from"),
    "MLX's npz": (files({}, weights__npz=b"N"), "MLX", "made from"),
    "GGUF inside": (
        gguf_inside, r"GGUF \(llama.Q4_1.gguf\)",
        "python -m convert gguf-to-hf .*llama.Q4_1.gguf DIR"),
    "GGUF beside config.json": (
        files({}, a__gguf=b"GGUF"), "GGUF", "python -m convert gguf-to-hf .*a.gguf"),
    "a GGUF file": (gguf_as_path, "is a GGUF file", "python -m convert gguf-to-hf"),
    "a safetensors file": (
        lambda f: sound(lambda g: None)(f) / SINGLE,  # type: ignore[operator]
        "is a file, wanted the folder", "give its folder"),
    "PEFT": (
        files(adapter_config__json=ADAPTER, adapter_model__safetensors=b"\x10\0"),
        "adapter of PEFT of org/base", "merge_and_unload"),
    "PEFT beside a Llama": (
        sound(lambda f: (f / "adapter_config.json").write_text(ADAPTER)),
        "adapter of PEFT", "merge_and_unload"),
    "shards without index": (
        sound(lambda f: (f / INDEX).unlink(), 3), "has 3 shards", "download the index"),
    "a shard is missing": (
        sound(lambda f: (f / "model-00002-of-00003.safetensors").unlink(), 3),
        "of 3 files that .* 1 are missing", "download them again"),
    "another name": (
        sound(lambda f: (f / SINGLE).rename(f / "llama.safetensors")),
        "has llama.safetensors and neither", "rename it"),
    "no weights": (files({}), "holds no weights", "download them"),
    "no config.json": (
        sound(lambda f: (f / "config.json").unlink()), "weights, but no config.json",
        "download it"),
    "nothing at all": (lambda f: None, "is no Hugging Face folder", "give the folder"),
    "incomplete": (sound(partial), "download of .* is incomplete", "it continues"),
    "incomplete in the cache": (
        partial_in_cache, "download of .* is incomplete", "it continues"),
    # Folders of another level, and of EqIDs.
    "one level too high": (
        sound(put_below("*", "SmolLM2")), "has no config.json",
        "the folder is .*/SmolLM2"),
    "the cache of the hub": (
        cache_of_the_hub, "has no config.json", "the folder is .*/snapshots/abc "),
    "a run": (run_inside, "is a run of EqIDs", "--checkpoint or --load_checkpoint"),
    "a checkpoint": (
        checkpoint_inside, "is a checkpoint of EqIDs", "convert eqids-to-hf"),
    "a dataset": (dataset_inside, "is a dataset of EqIDs", "--data_dir"),
    # Other models.
    **{
        name: (architecture(name, kind), rf"\['{name}'\] and model_type '{kind}'",
               "give the folder of a LlamaForCausalLM")
        for name, kind in (
            ("MistralForCausalLM", "mistral"), ("Qwen2ForCausalLM", "qwen2"),
            ("GemmaForCausalLM", "gemma"), ("MixtralForCausalLM", "mixtral"),
            ("Llama4ForConditionalGeneration", "llama4"),
            ("MllamaForConditionalGeneration", "mllama"),
        )
    },
    "LlamaForSequenceClassification": (
        architecture("LlamaForSequenceClassification", "llama"),
        "LlamaForSequenceClassification", r"give the LlamaForCausalLM that it was"),
    "LlamaModel": (
        architecture("LlamaModel", "llama"), "LlamaModel", "give the LlamaForCausalLM"),
}  # fmt: skip
"""How to make each, and patterns of the cause and the remedy in the message."""


def explains(message: str, name: str) -> bool:
    """Returns whether a message names the cause and the remedy of a kind."""
    return all(re.search(pattern, message) for pattern in KINDS[name][1:])
