"""Folders and files that are no Llama we read, of every kind that is known."""

import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_dataset
from folders import TINY_HF, random_tensors, write_hf
from ggufs import write_gguf
from safetensors.numpy import save_file
from saved import run_of

Make = Callable[[Path], Path | None]
"""Makes a path from an empty folder; returns it, or nothing if it is the folder."""
LFS = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 2200119864\n"
)
ANNEX = "/annex/objects/SHA256E-s2200119864--4d7a2146.safetensors\n"
HTML = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Q = "model.layers.0.self_attn.q_proj"


def files(config: Any = None, **contents: bytes | str) -> Make:
    """Files of these contents; `__` stands for a dot and `___` for a slash."""

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
    """A sound folder, of which one file is something else."""

    def make(folder: Path) -> Path:
        write_hf(folder / "llama", shards=shards)
        (folder / "llama" / name).write_text(content)
        return folder / "llama"

    return make


def sound(change: Callable[[Path], object], shards: int = 1) -> Make:
    """A sound folder after a change."""

    def make(folder: Path) -> Path:
        write_hf(folder / "llama", shards=shards)
        change(folder / "llama")
        return folder / "llama"

    return make


def link_to(target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / SINGLE).unlink()
        (folder / SINGLE).symlink_to(target)

    return change


def packed(
    dtype: str, bits: int, more: Mapping[str, tuple[str, int]], **config: Any
) -> Make:
    """A folder whose query matrix has another dtype and tensors beside it.

    Args:
        dtype: of the matrix, as safetensors calls it.
        bits: of a value.
        more: suffixes of tensors beside it, their dtypes and bits.
        config: what config.json says besides.
    """

    def make(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(TINY_HF | config))
        header: dict[str, Any] = {}
        data = b""

        def put(key: str, kind: str, shape: list[int], content: bytes) -> None:
            nonlocal data
            offsets = [len(data), len(data) + len(content)]
            header[key] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
            data += content

        for key, array in random_tensors(tied=False).items():
            if key != f"{Q}.weight":
                put(key, "F32", list(array.shape), array.tobytes())
        put(f"{Q}.weight", dtype, [512, 1], bytes(512 * bits // 8))
        for suffix, (kind, size) in more.items():
            put(Q + suffix, kind, [16], bytes(16 * size // 8))
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + data
        (folder / SINGLE).write_bytes(content)

    return make


def quantized(**settings: Any) -> Make:
    def change(folder: Path) -> None:
        config = TINY_HF | settings
        (folder / "config.json").write_text(json.dumps(config))

    return sound(change)


def architecture(name: str, model_type: str) -> Make:
    return quantized(architectures=[name], model_type=model_type)


def moved(names: str, to: str) -> Callable[[Path], None]:
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


def integers(folder: Path) -> None:
    tensors = random_tensors(tied=False)
    tensors["model.norm.weight"] = np.ones(16, np.int32)
    save_file(tensors, folder / SINGLE)


BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
BNB8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
ADAPTER = json.dumps({"base_model_name_or_path": "org/base", "peft_type": "LORA"})
BEFORE = "give the folder of the model before it was quantized"
PULL = "run `git lfs pull` in"
GET = "run `git annex get"
HF_FORMAT = "download the same model in Hugging Face's format"

KINDS: Mapping[str, tuple[Make, str, str]] = {
    # Weights that are quantized: as config.json says, and as the tensors say.
    "bitsandbytes 4 by config": (
        quantized(quantization_config=BNB4), r"\(bitsandbytes, 4 bits\)",
        r"dequantize\(\)"),
    "bitsandbytes 8 by config": (
        quantized(quantization_config=BNB8), r"\(bitsandbytes, 8 bits\)", BEFORE),
    "gptq by config": (
        quantized(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"\(gptq, 4 bits\)", BEFORE),
    "awq by config": (
        quantized(quantization_config={"quant_method": "awq", "bits": 4}),
        r"\(awq, 4 bits\)", BEFORE),
    "fp8 by config": (
        quantized(quantization_config={"quant_method": "fp8"}), r"\(fp8\)",
        "FineGrainedFP8Config"),
    "compressed-tensors by config": (
        quantized(quantization_config={"quant_method": "compressed-tensors"}),
        r"\(compressed-tensors\)", BEFORE),
    "compression_config": (
        quantized(compression_config={"format": "pack-quantized"}),
        "compression_config of config.json says", BEFORE),
    "mxfp4 by config": (
        quantized(quantization_config={"quant_method": "mxfp4"}), r"\(mxfp4\)",
        "Mxfp4Config"),
    "a method to come": (
        quantized(quantization_config={"quant_method": "novel"}), r"\(novel\)", BEFORE),
    "MLX, quantized": (
        quantized(quantization={"group_size": 64, "bits": 4}), r"\(MLX, 4 bits\)",
        "mlx_lm.convert --dequantize"),
    "MLX, quantized, said twice": (
        quantized(quantization={"bits": 4}, quantization_config={"bits": 4}),
        r"\(MLX, 4 bits\)", "mlx_lm.convert --dequantize"),
    "AutoGPTQ's own file": (
        sound(lambda f: (f / "quantize_config.json").write_text("{}")),
        "quantize_config.json says", BEFORE),
    "bitsandbytes 4": (
        packed("U8", 8, {".weight.absmax": ("F32", 32),
                         ".weight.quant_map": ("F32", 32),
                         ".weight.quant_state.bitsandbytes__nf4": ("U8", 8)}),
        "bitsandbytes, 4 bits", BEFORE),
    "bitsandbytes 8": (
        packed("I8", 8, {".SCB": ("F32", 32)}), "bitsandbytes, 8 bits", BEFORE),
    "gptq": (
        packed("F16", 16, {".qweight": ("I32", 32), ".qzeros": ("I32", 32),
                           ".scales": ("F16", 16), ".g_idx": ("I32", 32)}),
        r"\(gptq\)", BEFORE),
    "awq": (
        packed("F16", 16, {".qweight": ("I32", 32), ".qzeros": ("I32", 32),
                           ".scales": ("F16", 16)}), r"\(gptq or awq\)", BEFORE),
    "fp8 E4M3": (packed("F8_E4M3", 8, {}), r"F8_E4M3.*\(fp8\)", BEFORE),
    "fp8 E5M2": (packed("F8_E5M2", 8, {}), r"F8_E5M2.*\(fp8\)", BEFORE),
    "fp8 with scales": (
        packed("F8_E4M3", 8, {".weight_scale": ("F32", 32)}), "fp8", BEFORE),
    "compressed-tensors": (
        packed("F32", 32, {".weight_packed": ("I32", 32)}), "compressed-tensors",
        BEFORE),
    "mxfp4": (
        packed("F32", 32, {".weight_blocks": ("U8", 8), ".weight_scales": ("U8", 8)}),
        r"\(mxfp4\)", BEFORE),
    "MLX": (
        packed("U32", 32, {".scales": ("F16", 16), ".biases": ("F16", 16)}),
        r"\(MLX\)", BEFORE),
    "integers": (
        sound(integers), "model.norm.weight has dtype I32, wanted F64", BEFORE),
    # Files that stand for others.
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
    "not whole": (sound(partial), "not downloaded to its end", "it goes on"),
    "not whole in the cache": (
        partial_in_cache, "not downloaded to its end", "it goes on"),
    # Folders of another level, and of EqIDs.
    "one level too high": (
        sound(moved("*", "SmolLM2")), "has no config.json", "the folder is .*/SmolLM2"),
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
"""How each is made, and patterns of its cause and of the way out."""


def told(said: str, name: str) -> bool:
    """Returns whether a sentence names the cause and the way out of a kind."""
    return all(re.search(pattern, said) for pattern in KINDS[name][1:])
