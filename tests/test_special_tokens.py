"""Texts are data: a text that spells a special token is made of other tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from smollm2 import smollm2_gguf
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokens import BOS, TEXTS, write_tokenizer

from convert.gguf_file import read_gguf
from convert.gguf_tokenizer import tokenizer_files
from eqids.data import Dataset
from eqids.data.batches.item_texts import tokens_of, tokens_of_texts

SPECIAL = (
    BOS, "<s>", "</s>", "<|end|>", "<|im_start|>", "<|begin_of_text|>", "<|eot_id|>",
    "[PAD]", "<pad>", "é|", "two words",
)  # fmt: skip


def byte_level(path: Path, **how: bool) -> Path:
    write_tokenizer(path, [*TEXTS, "<s> </s> <|end|> <s>"])
    engine = Tokenizer.from_file(str(path))
    engine.add_special_tokens([AddedToken(text, **how) for text in SPECIAL])
    engine.add_tokens(["<think>"])
    engine.save(str(path))
    return path


HOW = {
    "plain": {},
    "stripping": {"lstrip": True, "rstrip": True},
    "normalized": {"normalized": True},
    "single_word": {"single_word": True},
}


@pytest.fixture(scope="module", params=HOW)
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return byte_level(folder / "tokenizer.json", **HOW[request.param])


def tokens(path: Path, texts: list[str]) -> list[list[int]]:
    tokens = tokens_of_texts(texts, path, 999)
    spans = zip(tokens.first.tolist(), tokens.length.tolist(), strict=True)
    return [tokens.ids[first : first + length].tolist() for first, length in spans]


def special_ids(engine: Tokenizer) -> set[int]:
    added = engine.get_added_tokens_decoder()
    return {number for number, token in added.items() if token.special}


spelling = st.lists(st.sampled_from(SPECIAL) | st.text(max_size=4), max_size=6)


@given(st.lists(spelling.map("".join), min_size=1, max_size=4))
def test_a_text_that_spells_special_tokens_is_text(
    tokenizer: Path, drawn: list[str]
) -> None:
    engine = Tokenizer.from_file(str(tokenizer))
    engine.no_truncation()
    for text, found in zip(drawn, tokens(tokenizer, drawn), strict=True):
        assert not special_ids(engine) & {*found}
        assert engine.decode(found, skip_special_tokens=False) == text
        if not any(token in text for token in SPECIAL):
            assert found == engine.encode(text, add_special_tokens=False).ids


def test_a_prompt_is_text_after_the_one_special_token(
    dataset: Dataset, tmp_path: Path
) -> None:
    path, text = byte_level(tmp_path / "tokenizer.json"), "".join(SPECIAL)
    engine = Tokenizer.from_file(str(path))
    prompt = tokens_of(dataset, path, text, 0, pytest.fail).prompt.tolist()
    assert prompt[0] == engine.token_to_id(BOS)
    assert not special_ids(engine) & {*prompt[1:]}
    assert engine.decode(prompt[1:], skip_special_tokens=False) == text


def test_added_tokens_that_are_not_special_are_words(tmp_path: Path) -> None:
    path = byte_level(tmp_path / "tokenizer.json")
    engine = Tokenizer.from_file(str(path))
    (found,) = tokens(path, ["Up<think>"])
    assert engine.token_to_id("<think>") in found
    assert found == engine.encode("Up<think>", add_special_tokens=False).ids[:9]


PIECES = [("<unk>", 0.0), ("</s>", 0.0), ("<s>", 0.0), ("▁", -2.0), ("z", -3.0)]
PIECES += [(one, -4.0) for one in "</s>ab"]
LETTERS = {text: at for at, (text, _) in enumerate(PIECES)}
MERGES = {**LETTERS, "s>": 11, "<s>b": 12}


def unigram() -> Tokenizer:
    engine = Tokenizer(models.Unigram(PIECES, unk_id=0))
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    return engine


def whole_words() -> Tokenizer:
    tokens = {"<unk>": 0, "</s>": 1, "<s>": 2, "ab": 3, "b": 4}
    engine = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return engine


def word_pieces() -> Tokenizer:
    vocab = {"<unk>": 0, "</s>": 1, "<s>": 2, "ab": 3, "<": 4, "##s": 5, "##>": 6}
    engine = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    engine.normalizer = normalizers.Lowercase()
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return engine


def merged() -> Tokenizer:
    """Merges of it lead to a special token, and on from there."""
    return Tokenizer(models.BPE(MERGES, [("s", ">"), ("<", "s>"), ("<s>", "b")]))


@pytest.mark.parametrize("make", [unigram, whole_words, word_pieces, merged])
@given(st.lists(st.sampled_from(["</s>", "<s>", "ab", "b", " ", "<", "z"]), max_size=8))
def test_models_that_find_special_tokens_by_themselves(
    tmp_path_factory: pytest.TempPathFactory,
    make: Callable[[], Tokenizer],
    drawn: list[str],
) -> None:
    path = tmp_path_factory.getbasetemp() / f"{make.__name__}.json"
    engine, text = make(), "".join(drawn)
    plain = engine.encode(text, add_special_tokens=False)
    engine.add_special_tokens(["</s>", "<s>"])
    engine.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", engine.token_to_id("<s>"))]
    )
    engine.save(str(path))
    (found,) = tokens(path, [text])
    assert not {1, 2} & {*found}
    assert tokens_of_texts(["b"], path, 1).prompt.tolist() == [2]
    if not {"</s>", "<s>"} & {*plain.tokens} and "<s>b" not in plain.tokens:
        assert found == plain.ids


@pytest.mark.long
def test_no_special_token_of_a_real_llama_is_found_in_texts(tmp_path: Path) -> None:
    file = tokenizer_files(read_gguf(smollm2_gguf()), pytest.fail)["tokenizer.json"]
    path = tmp_path / "tokenizer.json"
    path.write_bytes(file)
    engine = Tokenizer.from_file(str(path))
    special = special_ids(engine)
    assert len(special) > 10
    texts = [engine.id_to_token(number) for number in special]
    texts += ["a" + "".join(texts) + "b", *(f"Heat {text} (1995)" for text in texts)]
    for text, found in zip(texts, tokens(path, texts), strict=True):
        assert not special & {*found}
        assert engine.decode(found, skip_special_tokens=False) == text
        assert special & {*engine.encode(text).ids}
