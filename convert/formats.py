"""Recognize formats of weights that are not supported, by their files' names."""

from collections.abc import Sequence
from pathlib import Path

from eqids.config import UserError, check_content

FROM_GGUF = "turn it into a folder with `python -m convert gguf-to-hf {file} DIR`"
_FIVE = (
    "write them as safetensors with transformers: AutoModelForCausalLM."
    "from_pretrained('{path}').save_pretrained(DIR)"
)
_FOUR = (
    "write them as safetensors with transformers 4: AutoModelForCausalLM."
    "from_pretrained('{{path}}', {}=True).save_pretrained(DIR)"
)
_DOWNLOAD = "download the same model in Hugging Face's format"
_EXPORTED = "give the folder of the model that it was made from"
_MADE = "write a Hugging Face folder with the program that made it"
_MERGED = "join it with `accelerate merge-weights`, and write a Hugging Face folder"
_FORMATS: Sequence[tuple[str, str, str]] = (
    ("*.gguf", "weights as GGUF ({name})", FROM_GGUF),
    ("pytorch_model*.bin", "weights of PyTorch ({name})", _FIVE),
    ("consolidated*.pth", "Meta's original weights ({name})",
     f"{_DOWNLOAD}, or convert it with transformers' convert_llama_weights_to_hf.py"),
    ("consolidated*.safetensors", "original weights ({name})", _DOWNLOAD),
    ("openvino_model.*", "a graph of OpenVINO ({name})", _EXPORTED),
    *(
        (pattern, "a checkpoint of DeepSpeed ({name})",
         "join it with its zero_to_fp32.py, and write a Hugging Face folder")
        for pattern in ("zero_to_fp32.py", "*mp_rank_*.pt", "*/*mp_rank_*.pt")
    ),
    *(
        (pattern, "a checkpoint of Orbax ({name})", _MADE)
        for pattern in ("_CHECKPOINT_METADATA", "_METADATA", "*/_METADATA")
    ),
    ("*.engine", "an engine of TensorRT-LLM ({name})", _EXPORTED),
    ("*.mlpackage", "a model of Core ML ({name})", _EXPORTED),
    ("*.mlmodel*", "a model of Core ML ({name})", _EXPORTED),
    ("*.distcp", "a sharded checkpoint of PyTorch ({name})", _MERGED),
    ("*/*.distcp", "a sharded checkpoint of PyTorch ({name})", _MERGED),
    ("*.ckpt", "a checkpoint of another trainer ({name})", _MADE),
    ("*.nemo", "a model of NeMo ({name})", _MADE),
    ("*.bin", "weights of PyTorch ({name})", _FIVE),
    ("*.pt", "weights of PyTorch ({name})", _MADE),
    ("*.pth", "weights of PyTorch ({name})", _MADE),
    ("*.h5", "weights of TensorFlow ({name})", _FOUR.format("from_tf")),
    ("*.msgpack", "weights of Flax ({name})", _FOUR.format("from_flax")),
    ("*.onnx", "a graph of ONNX ({name})", _EXPORTED),
    ("onnx/*.onnx", "a graph of ONNX ({name})", _EXPORTED),
    ("*.npz", "weights of MLX or NumPy ({name})", _EXPORTED),
    ("params.json", "the settings of Meta's original format ({name})", _DOWNLOAD),
)  # fmt: skip
"""Patterns of files, what they are, and what to do."""


def check_formats(folder: Path) -> None:
    """Requires that a folder holds no weights in a format that is not supported.

    Raises:
        UserError: it does; the message names the format, the file and what to do.
    """
    for pattern, kind, remedy in _FORMATS:
        found = sorted(folder.glob(pattern))
        if found:
            if not found[0].is_dir():
                check_content(found[0])
            name = found[0].name + (f" and {len(found) - 1} more" if found[1:] else "")
            todo = remedy.format(path=folder, file=found[0])
            raise UserError(
                f"{folder} is no Hugging Face folder of safetensors, it has "
                f"{kind.format(name=name)}: {todo}"
            )
