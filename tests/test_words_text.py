"""Texts to words: templates, tokens, the cache in the dataset folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from plays import prepared, write_csv
from safetensors import safe_open
from tokenizers import Tokenizer
from tokens import BOS, TEXTS, with_texts, write_tokenizer

from eqids.config import PrepareConfig, UserError
from eqids.data import Dataset, open_dataset
from eqids.data.batches.item_texts import tokenizer_file, tokens_of
from eqids.data.batches.tokens import ItemTokens
from eqids.data.files import ITEMS_FILE, tokens_file

PLAYS = [("a", 1, 10), ("a", 2, 11), ("a", 3, 12), ("b", 2, 10), ("b", 3, 11)]


def texts(tmp_path: Path, template: str, table: pd.DataFrame, **more: Any) -> dict:
    """What a template makes of a table of items, by item."""
    items = tmp_path / "items.parquet"
    table.to_parquet(items)
    source = f"csv:{write_csv(tmp_path / 'plays.csv', PLAYS)}"
    settings = {"items": items, "text": template, "overwrite": True, **more}
    dataset = prepared(tmp_path, source, **settings)
    assert dataset.info.source == source
    return dataset.items().set_index("item")["text"].to_dict()


ITEMS = pd.DataFrame(
    {
        "item_id": [1, 2],
        "title": ["Heat", None],
        "year": [1995, np.nan],
        "score": [7.5, 8.0],
        "genres": [["Crime", "Thriller"], []],
    }
)


@pytest.mark.parametrize(
    ("template", "first", "second"),
    [
        ("{title} ({year}), {genres}", "Heat (1995), Crime, Thriller", ""),
        ("{{{score}}} {item_id}", "{7.5} 1", "{8} 2"),
    ],
)
def test_a_template_names_columns_of_the_items(
    tmp_path: Path, template: str, first: str, second: str
) -> None:
    assert texts(tmp_path, template, ITEMS) == {1: first, 2: second, 3: ""}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{title} by {author}", "names 'author', which is no column of .*items.parquet:"
         " it has item_id, title, year, score, genres"),
        ("{title", r"is '\{title' \(a single brace\), wanted names of columns"),
        ("title}", r"is 'title}' \(a single brace\), wanted names of columns"),
        ("title", "is 'title', wanted names of columns in braces"),
        ("{year:.1f}", "names 'year:.1f', which is no column"),
    ],
)  # fmt: skip
def test_a_template_that_is_wrong_is_refused(
    tmp_path: Path, template: str, said: str
) -> None:
    with pytest.raises(UserError, match=f"--text.*{said}"):
        texts(tmp_path, template, ITEMS)
    assert not (tmp_path / "out").exists()


def test_a_template_needs_a_table_of_items(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--text needs --items"):
        PrepareConfig(source="csv:a.csv", text="{title}")
    inter = tmp_path / "a.inter"
    inter.write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t5\t10\n")
    with pytest.raises(UserError, match="--text needs --items"):
        prepared(tmp_path, f"recbole:{inter}", text="{title}")


def test_films_have_title_year_and_genres(tmp_path: Path) -> None:
    """Whatever MovieLens' files call them."""
    template = "{genres}: {title}/{year}"
    folder = tmp_path / "ml"
    folder.mkdir()
    ratings = "".join(
        f"{u}::{i}::3::{t}\n" for u, i, t in [(1, 5, 1), (1, 6, 2), (1, 7, 3)]
    )
    (folder / "ratings.dat").write_text(ratings)
    (folder / "movies.dat").write_text(
        "5::Heat (1995)::Crime|Thriller\n6::Odd::(no genres listed)\n"
    )
    dataset = prepared(tmp_path, f"ml-1m:{folder}", text=template)
    table = dataset.items().set_index("item")
    assert table["text"].to_dict() == {
        5: "Crime, Thriller: Heat/1995",
        6: "Odd",
        7: "",
    }
    assert table.loc[5, "title"] == "Heat (1995)"
    inter = tmp_path / "a.inter"
    inter.write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n1\t5\t10\n1\t6\t11\n1\t5\t12\n"
    )
    inter.with_suffix(".item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "5\tHeat\t1995\tCrime Thriller\n6\tOdd\t\t\n"
    )
    more = {"overwrite": True, "text": template + " {class}"}
    dataset = prepared(tmp_path, f"recbole:{inter}", **more)
    found = dataset.items().set_index("item")["text"].to_dict()
    assert found == {5: "Crime, Thriller: Heat/1995 Crime Thriller", 6: "Odd"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("llama") / "tokenizer.json")


@pytest.fixture(scope="module")
def texted(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return with_texts(dataset, tmp_path_factory.mktemp("texted") / "d", TEXTS)


def of(
    dataset: Dataset, tokenizer: Path, per_item: int = 99, prompt: str = ""
) -> ItemTokens:
    return tokens_of(dataset, tokenizer, prompt, per_item, lambda sentence: None)


def by_item(tokens: ItemTokens, dataset: Dataset) -> list[list[int]]:
    slots = dataset.items()["slot"]
    return [tokens.ids[tokens.first[s] :][: tokens.length[s]].tolist() for s in slots]


def encoded(tokenizer: Path, text: str) -> list[int]:
    """A text's tokens by the library itself."""
    engine = Tokenizer.from_file(str(tokenizer))
    engine.no_truncation()
    return engine.encode(text, add_special_tokens=False).ids


@settings(max_examples=20)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=8), st.integers(1, 9))
def test_words_are_those_of_the_tokenizer(
    texted: Dataset,
    tokenizer: Path,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[str],
    per_item: int,
) -> None:
    drawn = ["some", *drawn]
    folder = tmp_path_factory.getbasetemp() / "drawn"
    dataset = with_texts(texted, folder, drawn)
    tokens = of(dataset, tokenizer, per_item, drawn[-1])
    for row, found in enumerate(by_item(tokens, dataset)):
        text = drawn[row % len(drawn)]
        assert found == encoded(tokenizer, text)[:per_item]
    engine = Tokenizer.from_file(str(tokenizer))
    prefix = [engine.token_to_id(BOS), *encoded(tokenizer, drawn[-1])]
    assert tokens.prompt.tolist() == prefix
    assert tokens.vocab == engine.get_vocab_size()
    assert tokens.vocab_used <= tokens.vocab


def test_no_token_comes_first_where_the_tokenizer_puts_none(
    texted: Dataset, tmp_path: Path
) -> None:
    plain = write_tokenizer(tmp_path / "tokenizer.json", bos=False)
    assert of(texted, plain).prompt.tolist() == []
    assert of(texted, plain, prompt="Up").prompt.tolist() == encoded(plain, "Up")


def test_words_are_tokenized_once(dataset: Dataset, tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    texted = with_texts(dataset, tmp_path / "d", TEXTS)
    said: list[str] = []
    first, second = (tokens_of(texted, tokenizer, "", n, said.append) for n in (99, 2))
    assert len(said) == 1 and "tokenizing the texts of 27 items" in said[0]
    assert by_item(second, texted) == [ids[:2] for ids in by_item(first, texted)]
    assert first.config != second.config
    assert first.config.tokenizer == second.config.tokenizer
    (cache,) = tmp_path.glob("d/tokens-*")
    assert cache.name == tokens_file(first.tokenizer)
    with safe_open(cache, framework="np") as file:
        assert file.metadata()["tokenizer"] == first.tokenizer
    assert open_dataset(texted.path).info == texted.info


@pytest.mark.parametrize("damage", ["texts", "bits", "short", "garbage"])
def test_a_cache_that_is_stale_or_damaged_is_made_again(
    dataset: Dataset, tmp_path: Path, damage: str
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    texted = with_texts(dataset, tmp_path / "d", TEXTS)
    first = of(texted, tokenizer)
    (cache,) = tmp_path.glob("d/tokens-*")
    content = cache.read_bytes()
    if damage == "texts":
        texted = with_texts(dataset, tmp_path / "d", ["other words"])
        assert not cache.exists()
    bad = {"texts": content, "bits": content[:-1] + bytes([content[-1] ^ 1]),
           "short": content[: len(content) // 2], "garbage": b"?"}  # fmt: skip
    cache.write_bytes(bad[damage])
    again = of(texted, tokenizer)
    if damage == "texts":
        assert by_item(again, texted)[0] == encoded(tokenizer, "other words")
    else:
        assert by_item(again, texted) == by_item(first, texted)
        tokens_of(texted, tokenizer, "", 99, pytest.fail)
    assert [file.name for file in tmp_path.glob("d/.*")] == []


def test_a_dataset_with_a_cache_can_be_replaced(
    dataset: Dataset, tmp_path: Path
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    texted = with_texts(dataset, tmp_path / "d", TEXTS)
    of(texted, tokenizer)
    with_texts(dataset, tmp_path / "d", TEXTS)
    (tmp_path / "d" / "tokens-mine.safetensors").touch()
    with pytest.raises(
        UserError, match="tokens-mine.safetensors', which is no dataset"
    ):
        with_texts(dataset, tmp_path / "d", TEXTS)


def test_what_is_missing_is_said(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need a tokenizer: wanted --tokenizer FILE"):
        tokenizer_file(None, None)
    with pytest.raises(UserError, match="has no tokenizer.json: wanted --tokenizer"):
        tokenizer_file(None, tmp_path)
    with pytest.raises(UserError, match="there is no file .*none.json"):
        tokenizer_file(tmp_path / "none.json", None)
    own = write_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer_file(None, tmp_path) == tokenizer_file(tmp_path, None) == own
    silent = with_texts(dataset, tmp_path / "d", [""])
    with pytest.raises(UserError, match=f"{ITEMS_FILE}: no item has a text"):
        of(silent, own, per_item=1)
    assert len(of(silent, own, per_item=0).ids) == 0
    own.write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer.json"):
        of(dataset, own)
