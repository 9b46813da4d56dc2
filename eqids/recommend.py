"""Recommend: `python -m eqids.recommend`."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from eqids.config import RecommendConfig, UserError, require
from eqids.door import check_output, parse, run
from eqids.opening import open_model
from eqids.recommender import History, Recommender
from sharding import placement

DESCRIPTION = """Name the most probable next items, exactly, with their probabilities.

For a user of the dataset, for a history given as item ids, or for a Parquet or CSV
file of histories (columns user, item and, if known, time); those of a file go to
another, CSV where it is called so and else Parquet:

    python -m eqids.recommend --checkpoint runs/ml-100k-nano-all-seed0 --user 1
    python -m eqids.recommend --checkpoint runs/mine --history 50,181,172 --k 5
    python -m eqids.recommend --init_from exported/mine --user 1
    python -m eqids.recommend --checkpoint runs/mine --input a.parquet \\
        --output b.parquet
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints recommendations, or writes those of a file to another."""
    config = parse(RecommendConfig, argv, "eqids.recommend", DESCRIPTION)
    check_output(config.output, "--output")
    recommender = Recommender(open_model(config, placement("none")))
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
    frame = _table(config.input)
    require(len(frame) > 0, f"{config.input} has no rows, wanted histories")
    try:
        return recommender.of_frame(frame)
    except UserError as error:
        raise UserError(f"{config.input}: {error}") from error


def _table(path: Path) -> pd.DataFrame:
    """Reads a CSV file, where it is called so, or a Parquet file."""
    require(path.is_file(), f"{path}: no such file")
    is_csv = _is_csv(path)
    try:
        if not is_csv:
            return pd.read_parquet(path)
        # As `prepare` reads ids: text as written, unless every one spells an integer.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
        users = frame.get("user", pd.Series(dtype=str))
        integers = users.str.fullmatch(r"0|-?[1-9]\d{0,17}").eq(True).all()
        return frame.astype({"user": "int64"}) if integers and len(users) else frame
    except (pa.ArrowException, ValueError, OSError) as error:
        kind = "CSV" if is_csv else "Parquet"
        raise UserError(f"{path} is not a {kind} file: {error}") from error


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _listing(found: pd.DataFrame) -> str:
    """Returns recommendations as lines: rank, probability, item and title."""
    columns = (found[name] for name in ("rank", "probability", "item", "title"))
    return "\n".join(
        f"{rank:>4}  {probability:8.4%}  {item}  {title}"
        for rank, probability, item, title in zip(*columns, strict=True)
    )


def _write(path: Path, parts: Iterable[pd.DataFrame]) -> int:
    """Writes a CSV or Parquet file whole, and returns the number of its rows."""
    done = list(tqdm(parts, unit="chunk", disable=None))
    frame = pd.concat(done, ignore_index=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        if _is_csv(path):
            frame.to_csv(partial, index=False)
        else:
            frame.to_parquet(partial, index=False)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return len(frame)


if __name__ == "__main__":
    run(main)
