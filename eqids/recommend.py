"""Recommend: `python -m eqids.recommend`."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from eqids.config import RecommendConfig, UserError, require
from eqids.door import parse, run
from eqids.recommender import History, Recommender, load

DESCRIPTION = """Name the most probable next items, exactly, with their probabilities.

For a user of the dataset, for a history given as item ids, or for a Parquet file of
histories (columns user, item and, if known, time):

    python -m eqids.recommend --checkpoint runs/ml-100k-nano-all-seed0 --user 1
    python -m eqids.recommend --checkpoint runs/mine --history 50,181,172 --k 5
    python -m eqids.recommend --checkpoint runs/mine --input a.parquet \\
        --output b.parquet
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints recommendations, or writes those of a file to another."""
    config = parse(RecommendConfig, argv, "eqids.recommend", DESCRIPTION)
    recommender = load(config.checkpoint, config.data_dir, config.llama_path)
    histories = _histories(recommender, config)
    found = recommender.search(
        histories,
        config.k,
        filter_seen=not config.keep_seen,
        allowed=recommender.allowed(),
    )
    if config.output is None:
        for part in found:
            print(_listing(part) or "no item is left to recommend, see --keep_seen")
        return
    rows = _write(config.output, found)
    print(f"{rows:,} recommendations for {len(histories):,} users in {config.output}")


def _histories(recommender: Recommender, config: RecommendConfig) -> list[History]:
    if config.user is not None:
        return [recommender.of_user(config.user)]
    if config.history is not None:
        items = [item.strip() for item in config.history.split(",") if item.strip()]
        return [History("history", recommender.dataset.slot_of(items))]
    assert config.input is not None
    require(config.input.is_file(), f"{config.input}: no such file")
    try:
        frame = pd.read_parquet(config.input)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(f"{config.input} is not a Parquet file: {error}") from error
    require(len(frame) > 0, f"{config.input} has no rows, wanted histories")
    try:
        return recommender.of_frame(frame)
    except UserError as error:
        raise UserError(f"{config.input}: {error}") from error


def _listing(found: pd.DataFrame) -> str:
    """Returns recommendations as lines: rank, probability, item and title."""
    columns = (found[name] for name in ("rank", "probability", "item", "title"))
    return "\n".join(
        f"{rank:>4}  {probability:8.4%}  {item}  {title}"
        for rank, probability, item, title in zip(*columns, strict=True)
    )


def _write(path: Path, parts: Iterable[pd.DataFrame]) -> int:
    """Writes a Parquet file whole, and returns the number of its rows."""
    done = list(tqdm(parts, unit="chunk", disable=None))
    frame = pd.concat(done, ignore_index=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        frame.to_parquet(partial, index=False)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return len(frame)


if __name__ == "__main__":
    run(main)
