"""Items of four kinds, a Llama that reads their texts, and runs with text columns."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from models import TINY
from plays import prepared, write_csv
from runs import small
from tokens import write_tokenizer

from convert import save_llama
from eqids import catalog
from eqids.data import Dataset, open_dataset
from eqids.model import Llama

KINDS = ("red apple pear", "loud drum horn", "cold snow ice", "old stone wall")
LEARNED, TEXT = 8, 6


def write_llama(folder: Path, seed: int = 0) -> Path:
    """Writes a random Llama that has the tokens of `KINDS`."""
    config = dataclasses.replace(TINY, vocab=300)
    save_llama(Llama(config, key=jax.random.key(seed)), folder)
    write_tokenizer(folder / "tokenizer.json", KINDS)
    return folder


def loyal_users(folder: Path, titles: Sequence[str], **settings: str) -> Dataset:
    """Users who use items of one kind each, with these titles for 48 items."""
    rng = np.random.default_rng(0)
    rows = list(enumerate(titles))
    items = write_csv(folder / "items.csv", rows, ("item_id", "title"))
    plays = [
        (user, 4 * item + user % 4, time)
        for user in range(120)
        for time, item in enumerate(rng.permutation(12)[:10])
    ]
    source = write_csv(folder / "plays.csv", plays)
    return prepared(folder, f"csv:{source}", items=items, **settings)


def with_unused_items(folder: Path) -> Dataset:
    """Users who use items of one kind, which titles tell; one unused item a kind."""
    titles = [KINDS[n % 4] for n in range(48)]
    dataset = loyal_users(folder, titles, text="{title}")
    add_items(dataset.path, [(48 + n, KINDS[n], n) for n in range(4)])
    return open_dataset(dataset.path)


def add_items(data: Path, rows: list[tuple[int, str, int]], *more: str) -> None:
    """Adds items to a catalog: id, title, and a similar item, beside which it goes."""
    columns = ("item_id", "title", "near")
    file = write_csv(data.parent / f"new{rows[0][0]}.csv", rows, columns)
    flags = ["--data_dir", str(data), "--items", str(file), "--text", "{title}"]
    flags += ["--similar_column", "near"]
    catalog.main(["add", *flags, *more])


def flags_of(data: Path, folder: Path, llama: Path, *more: str) -> list[str]:
    """Flags of a run with text columns that takes seconds."""
    widths = ("--item_width", str(LEARNED + TEXT), "--text_width", str(TEXT))
    sizes = "--batch_size 16 --num_steps 60 --eval_every 60 --adapter linear".split()
    return small(data, folder, "--text_llama_path", str(llama), *widths, *sizes, *more)
