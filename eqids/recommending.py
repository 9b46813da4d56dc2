"""What `python -m eqids.recommend` does once its flags are read."""

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from eqids.config import RecommendConfig, UserError, require
from eqids.opening import open_model
from eqids.recommender import History, Recommender
from sharding import placement


def recommend(config: RecommendConfig) -> None:
    """Prints recommendations, or writes those of a file to another.

    Args:
        config: what the command was told.

    Raises:
        UserError: see `open_model` and `Recommender.recommend`; or a file that cannot
            be read or written.
    """
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
