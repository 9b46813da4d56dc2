"""Tokenizes the texts of a dataset's items, and caches the tokens in its folder."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from eqids.config import UserError, check_content, require
from eqids.data.batches.tokens import ItemTokens, tokens_by_slot
from eqids.data.dataset import Dataset
from eqids.data.files import ITEMS_FILE, read_parquet, tokens_file
from eqids.io.cached_arrays import read_arrays, write_arrays
from eqids.io.digests import file_sha256

TOKENIZER_FILE = "tokenizer.json"
"""The name of a tokenizer's file in a Hugging Face model's folder."""

_TEXTS = 16_384
"""Number of texts that are tokenized at a time."""


def tokenizer_file(tokenizer: Path | None, llama_path: Path | None) -> Path:
    """Returns the tokenizer's file: the given one, or the Llama's own.

    Raises:
        UserError: neither exists.
    """
    if tokenizer is not None:
        inside = tokenizer / TOKENIZER_FILE
        path = inside if tokenizer.is_dir() else tokenizer
        require(path.is_file(), f"--tokenizer {tokenizer}: there is no file {path}")
        check_content(path)
        return path
    wanted = f"wanted --tokenizer FILE, a {TOKENIZER_FILE}"
    require(llama_path is not None, f"texts of items need a tokenizer: {wanted}")
    assert llama_path is not None
    require(
        llama_path.exists(),
        f"{llama_path} does not exist, wanted the folder of a Llama, see --llama_path",
    )
    require(
        not llama_path.is_file(),
        f"--llama_path {llama_path} is a file, wanted the folder of a Llama with its "
        f"{TOKENIZER_FILE}",
    )
    path = llama_path / TOKENIZER_FILE
    if path.is_symlink() or path.exists():
        check_content(path)
        return path
    if (llama_path / "tokenizer.model").exists():
        wanted += (
            "; transformers makes one from the tokenizer.model in the folder: "
            f"AutoTokenizer.from_pretrained('{llama_path}').save_pretrained(DIR)"
        )
    raise UserError(
        f"texts of items need a tokenizer, and {llama_path} has no {TOKENIZER_FILE}: "
        f"{wanted}"
    )


def tokens_of(
    dataset: Dataset,
    tokenizer: Path,
    prompt: str,
    per_item: int,
    report: Callable[[str], None],
) -> ItemTokens:
    """Returns the tokens of a dataset's items and of a prompt.

    Texts and the prompt are data: a text that spells a special token, such as `</s>`,
    is tokenized letter by letter like any other. The only special token is the one
    that the tokenizer itself puts before a text (Llama 3's `<|begin_of_text|>`). Every
    prompt, even an empty one, starts with it. Added tokens that the tokenizer's file
    declares not special are ordinary tokens.

    The tokens of all items are cached in the dataset folder, under the tokenizer's
    hash; a stale or damaged cache is made again.

    Args:
        dataset: a dataset with the present version of its catalog.
        tokenizer: a `tokenizer.json`.
        prompt: text at the beginning of every sequence.
        per_item: most tokens of an item.
        report: receives messages about slow steps.

    Raises:
        UserError: the tokenizer does not exist, or `per_item` is above 0 and no item
            has a text.
    """
    engine, sha256 = _open(tokenizer), file_sha256(tokenizer)
    ids, offsets = np.zeros(0, np.int32), np.zeros(dataset.num_slots + 1, np.int64)
    if per_item > 0:
        ids, offsets = _cached(dataset, engine, sha256, report)
        require(
            len(ids) > 0,
            f"{dataset.path / ITEMS_FILE}: no item has a text, wanted texts of items; "
            "prepare the dataset with --items and --text",
        )
    vocab = 1 + max(engine.get_vocab(with_added_tokens=True).values(), default=-1)
    start = np.array([*_before(engine), *_encoded(engine, prompt)], np.int32)
    return tokens_by_slot(ids, offsets, start, per_item, sha256, vocab)


def tokens_of_texts(texts: Sequence[str], tokenizer: Path, per_item: int) -> ItemTokens:
    """Returns the tokens of texts that belong to no dataset yet; see `tokens_of`.

    Args:
        texts: one for each slot.
        tokenizer: a `tokenizer.json`.
        per_item: most tokens of a text.

    Raises:
        UserError: the tokenizer does not exist.
    """
    engine = _open(tokenizer)
    ids, lengths = _tokenized(texts, engine)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return tokens_by_slot(ids, offsets, np.array(_before(engine), np.int32), per_item)


def _open(path: Path) -> Tokenizer:
    """Opens a tokenizer, and makes it treat special tokens in texts as text."""
    try:
        engine = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(f"{path} is no {TOKENIZER_FILE}: {error}") from None
    engine.encode_special_tokens = True
    special = _special(engine)
    if any(special[text] in _encoded(engine, text) for text in special):
        engine = Tokenizer.from_str(_without_spellings(engine, special))
        engine.encode_special_tokens = True
    engine.no_truncation()
    engine.no_padding()
    return engine


def _special(engine: Tokenizer) -> dict[str, int]:
    """The special tokens that a text must not spell, and their ids.

    The token for unknown text and tokens of one letter are left out.
    """
    unknown = getattr(engine.model, "unk_token", None)
    added = engine.get_added_tokens_decoder()
    special = {token.content: at for at, token in added.items() if token.special}
    return {t: at for t, at in special.items() if t != unknown and len(t) > 1}


def _without_spellings(engine: Tokenizer, special: Mapping[str, int]) -> str:
    """A tokenizer's JSON, changed so that no text spells a special token.

    Some models, Unigram and WordLevel among them, hold special tokens in their own
    vocabulary and find them in texts. These tokens keep their ids, and get names
    that no text contains.
    """
    said = json.loads(engine.to_str())
    name = {text: f"\0special {at} {uuid.uuid4().hex}" for text, at in special.items()}
    for token in said["added_tokens"]:
        token["content"] = name.get(token["content"], token["content"])
    model = said["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [[name.get(t, t), score] for t, score in model["vocab"]]
    else:
        model["vocab"] = {name.get(t, t): at for t, at in model["vocab"].items()}
    if "merges" in model:
        pairs = ((left, right) for left, right in model["merges"])
        model["merges"] = [p for p in pairs if not {*p, "".join(p)} & special.keys()]
    return json.dumps(said)


def _encoded(engine: Tokenizer, text: str) -> list[int]:
    return engine.encode(text, add_special_tokens=False).ids


def _before(engine: Tokenizer) -> list[int]:
    """The tokens that a tokenizer puts before a text, such as Llama 3's first."""
    mask = engine.encode("a").special_tokens_mask
    num_before = mask.index(0) if 0 in mask else 0
    return engine.encode("a").ids[:num_before]


def _cached(
    dataset: Dataset, engine: Tokenizer, sha256: str, report: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    path = dataset.path / tokens_file(sha256)
    wanted = {
        "tokenizer": sha256,
        "items": dataset.info.files[ITEMS_FILE],
        "catalog_id": dataset.info.catalog_id,
    }
    found = read_arrays(path, wanted)
    if found is not None:
        return found["ids"], found["offsets"]
    report(f"tokenizing the texts of {dataset.info.num_items:,} items")
    ids, offsets = _of_dataset(dataset, engine)
    arrays = {"ids": ids, "offsets": offsets}
    write_arrays(path, arrays, wanted, report, "every run tokenizes the texts again")
    return ids, offsets


def _of_dataset(dataset: Dataset, engine: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    table = read_parquet(dataset.path / ITEMS_FILE, columns=["slot", "text"])
    ids, lengths = _tokenized(table["text"].fill_null("").to_pylist(), engine)
    by_slot = np.zeros(dataset.num_slots, np.int64)
    by_slot[table["slot"].to_numpy()] = lengths
    # Items are in the order of their slots, and so are their tokens.
    return ids, np.concatenate([[0], np.cumsum(by_slot)])


def _tokenized(
    texts: Sequence[str], engine: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all texts, one after the other, and how many each has."""
    lengths, parts = np.zeros(len(texts), np.int64), [np.zeros(0, np.int32)]
    for first in range(0, len(texts), _TEXTS):
        chunk = texts[first : first + _TEXTS]
        encoded = [x.ids for x in engine.encode_batch(chunk, add_special_tokens=False)]
        lengths[first : first + len(chunk)] = [len(ids) for ids in encoded]
        parts += [np.array(ids, np.int32) for ids in encoded]
    return np.concatenate(parts), lengths
