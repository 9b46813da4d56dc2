"""Convert the tokenizer in a GGUF file's metadata to Hugging Face's files."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convert.gguf_file import GgufFile
from eqids.config import UserError, require

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 splits text before BPE (llama-models, `tokenizer.py`)."""
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
}
_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens that are matched before the text is split."""


@dataclass(frozen=True)
class _Kind:
    """A kind of tokenizer, which `tokenizer.ggml.pre` names."""

    pre_tokenizers: tuple[Mapping[str, Any], ...]
    """How text is split before BPE."""
    ignore_merges: bool = False
    """Whether a piece of text that is a token is not split by merges."""
    add_bos: bool = False
    """Whether a text begins with the bos token, if the file does not say."""


_SMOLLM = _Kind(({"type": "Digits", "individual_digits": True}, _BYTE_LEVEL))
_LLAMA3 = _Kind(
    (
        {
            "type": "Split",
            "pattern": {"Regex": _LLAMA3_SPLIT},
            "behavior": "Isolated",
            "invert": False,
        },
        {**_BYTE_LEVEL, "use_regex": False},
    ),
    ignore_merges=True,
    add_bos=True,
)
_KINDS: Mapping[str, _Kind] = {
    "gpt-2": _Kind((_BYTE_LEVEL,)),
    "smollm": _SMOLLM,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
}


_ENDS = ("bos", "eos")
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Hugging Face's names of special tokens, and GGUF's."""


def token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `bos_token_id` and `eos_token_id`, if the file has them."""
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS}
    return {f"{name}_token_id": n for name, n in ids.items() if n is not None}


def tokenizer_files(file: GgufFile, report: Callable[[str], None]) -> dict[str, bytes]:
    """Returns the content of tokenizer.json and tokenizer_config.json, or nothing.

    Args:
        file: a GGUF file, with the tokens in its metadata.
        report: called with the reason if the kind of tokenizer is not supported.

    Raises:
        UserError: tokens, their types and merges do not fit each other.
    """
    metadata = file.metadata
    model, name = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if model != "gpt2" or kind is None:
        report(
            f"no tokenizer is written: tokenizer.ggml.model of {file.path} is "
            f"{model!r} and tokenizer.ggml.pre is {name!r}, wanted 'gpt2' and one of "
            f"{', '.join(_KINDS)}"
        )
        return {}
    tokens, merges = (_texts(file, key) for key in ("tokens", "merges"))
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    vocab = {token: number for number, token in enumerate(tokens)}
    require(
        isinstance(types, list) and len(types) == len(tokens) == len(vocab),
        f"{file.path}: tokenizer.ggml.tokens has {len(tokens)} tokens, {len(vocab)} of "
        "them distinct; wanted distinct tokens, and a token_type for each",
    )
    _check_merges(file, vocab, merges)
    special = _special(file, tokens)
    _check_ends(file, kind, special)
    settings = _json(kind, metadata, vocab, merges, types, special)
    about = json.dumps(_about(metadata, special), indent=2, ensure_ascii=False)
    return {
        "tokenizer.json": json.dumps(settings, ensure_ascii=False).encode(),
        "tokenizer_config.json": about.encode(),
    }


def _texts(file: GgufFile, key: str) -> list[str]:
    value = file.metadata.get(f"tokenizer.ggml.{key}")
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise UserError(f"{file.path}: tokenizer.ggml.{key} is not a list of texts")


def _about(metadata: Mapping[str, Any], special: Mapping[str, str]) -> dict[str, Any]:
    """Returns the content of tokenizer_config.json."""
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.get("llama.context_length", 1 << 30),
        **{f"{name}_token": token for name, token in special.items()},
    }
    template = metadata.get("tokenizer.chat_template")
    return about | ({"chat_template": template} if isinstance(template, str) else {})


def _check_merges(file: GgufFile, vocab: Mapping[str, int], merges: list[str]) -> None:
    for number, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        require(
            left in vocab and right in vocab and left + right in vocab,
            f"{file.path}: tokenizer.ggml.merges[{number}] is {merge!r}, wanted two "
            "tokens whose join is a token",
        )


def _special(file: GgufFile, tokens: list[str]) -> dict[str, str]:
    found = {}
    for name, spelled in _SPECIAL.items():
        key = f"tokenizer.ggml.{spelled}_token_id"
        number = file.metadata.get(key)
        if number is None:
            continue
        require(
            isinstance(number, int) and 0 <= number < len(tokens),
            f"{file.path}: {key} is {number!r}, wanted a number from 0 to "
            f"{len(tokens) - 1}",
        )
        found[name] = tokens[number]
    return found


def _json(
    kind: _Kind,
    metadata: Mapping[str, Any],
    vocab: Mapping[str, int],
    merges: list[str],
    types: list[int],
    special: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the content of tokenizer.json (huggingface/tokenizers)."""
    added = [
        {
            "id": vocab[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": type_ == _CONTROL,
        }
        for token, type_ in zip(vocab, types, strict=True)
        if type_ in (_CONTROL, _USER_DEFINED)
    ]
    pre_tokenizers = list(kind.pre_tokenizers)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": _template(kind, metadata, vocab, special),
        "decoder": _BYTE_LEVEL,
        "model": {
            **_BPE,
            "ignore_merges": kind.ignore_merges,
            "vocab": dict(vocab),
            "merges": merges,
        },
    }


def _adds(kind: _Kind, metadata: Mapping[str, Any], end: str) -> bool:
    """Returns whether llama.cpp adds the bos before a text, or the eos after it."""
    default = kind.add_bos if end == "bos" else False
    return bool(metadata.get(f"tokenizer.ggml.add_{end}_token", default))


def _check_ends(file: GgufFile, kind: _Kind, special: Mapping[str, str]) -> None:
    for end in _ENDS:
        require(
            end in special or not _adds(kind, file.metadata, end),
            f"{file.path}: tokenizer.ggml.add_{end}_token adds a {end} token to texts, "
            f"but tokenizer.ggml.{end}_token_id is missing, wanted both or neither",
        )


def _template(
    kind: _Kind,
    metadata: Mapping[str, Any],
    vocab: Mapping[str, int],
    special: Mapping[str, str],
) -> dict[str, Any] | None:
    """Returns the template that adds tokens around texts; None if it adds none."""
    ends = {end: special[end] for end in _ENDS if _adds(kind, metadata, end)}
    if not ends:
        return None

    def around(sequence: str) -> list[dict[str, Any]]:
        own = {
            end: [{"SpecialToken": {"id": token, "type_id": 0}}]
            for end, token in ends.items()
        }
        text = {"Sequence": {"id": sequence, "type_id": 0}}
        return [*own.get("bos", []), text, *own.get("eos", [])]

    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": around("A") + around("B"),
        "special_tokens": {
            token: {"id": token, "ids": [vocab[token]], "tokens": [token]}
            for token in ends.values()
        },
    }
