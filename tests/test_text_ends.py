"""tokenizer_config.json beside tokenizer.json, against transformers' AutoTokenizer."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from eqids.config import UserError
from eqids.data.text_ends import apply_settings

VOCAB = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "<x>": 4}
ABSENT = object()
BEGUN = TemplateProcessing(
    single=["<s>:0", "$A:0"], pair=["<s>:0", "$A:0", "$B:1"], special_tokens=[("<s>", 0)]
)
SPELLED = ("<s>", {"content": "<s>", "lstrip": False, "rstrip": False,
                   "normalized": False, "single_word": False}, None, ABSENT)  # fmt: skip


def write(folder: Path, template: Any, config: dict[str, Any]) -> Path:
    engine = Tokenizer(models.WordLevel(VOCAB, unk_token="<x>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.add_special_tokens(["<s>", "</s>", "<x>"])
    if template is not None:
        engine.post_processor = template
    engine.save(str(folder / "tokenizer.json"))
    there = {key: value for key, value in config.items() if value is not ABSENT}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", **there}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder / "tokenizer.json"


def ours(path: Path, text: str = "a b") -> list[int]:
    engine = Tokenizer.from_file(str(path))
    apply_settings(engine, path)
    return engine.encode(text).ids


FAMILY = list(
    itertools.product(
        (None, BEGUN), (ABSENT, True, False, None), (ABSENT, True, False), SPELLED
    )
)


@pytest.mark.parametrize("number", range(len(FAMILY)))
def test_texts_begin_and_end_as_transformers_has_them(
    number: int, tmp_path: Path
) -> None:
    template, bos, eos, token = FAMILY[number]
    path = write(
        tmp_path, template,
        {"add_bos_token": bos, "add_eos_token": eos, "bos_token": token,
         "eos_token": "</s>"},
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours(path) == tokenizer("a b").input_ids
    assert ours(path)[-3:] in ([2, 3], [0, 2, 3], [2, 3, 1])


def test_a_config_takes_the_first_token_away(tmp_path: Path) -> None:
    """The right values, written out."""
    told = {"bos_token": "<s>", "eos_token": "</s>"}
    assert ours(write(tmp_path, BEGUN, told)) == [0, 2, 3]
    assert ours(write(tmp_path, BEGUN, {**told, "add_bos_token": False})) == [2, 3]
    both = {**told, "add_bos_token": True, "add_eos_token": True}
    assert ours(write(tmp_path, None, both)) == [0, 2, 3, 1]


def test_special_tokens_map_counts_in_old_folders(tmp_path: Path) -> None:
    config = {"add_bos_token": True, "bos_token": "<x>"}
    path = write(tmp_path, None, config)
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours(path) == tokenizer("a b").input_ids == [0, 2, 3]
    write(tmp_path, None, {**config, "added_tokens_decoder": {}})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours(path) == tokenizer("a b").input_ids == [4, 2, 3]


def test_a_token_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, None, {"add_bos_token": True, "bos_token": "<begin>"})
    with pytest.raises(UserError, match="puts '<begin>' around texts"):
        ours(path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer_config.json is not JSON"):
        ours(path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert ours(path) == [2, 3]
