"""What `python -m eqids.recommend` does once its flags are read."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from eqids.cli import one_line, say, warn
from eqids.config import RecommendConfig, UserError
from eqids.data.ids import shown, typed_ids
from eqids.data.raw.history_files import read_history_file
from eqids.inference.histories import History, read_histories
from eqids.inference.open import open_model
from eqids.inference.recommender import Recommender
from eqids.io.atomic import new_file
from sharding import placement

_PACKED = {".gz": "gzip", ".zst": "zstd"}
"""Ends of names of compressed CSV files, and how these are compressed."""


def recommend(config: RecommendConfig) -> None:
    """Prints recommendations, or writes those of a file to another.

    Args:
        config: what the command was told.

    Raises:
        UserError: see `open_model` and `Recommender.recommend`; or a file that cannot
            be read or written.
    """
    recommender = Recommender(open_model(config, placement("none")))
    histories, left_out = _histories(recommender, config)
    found = recommender.search(
        histories,
        config.k,
        filter_seen=not config.keep_seen,
        allowed=recommender.allowed(),
    )
    notes = _notes(histories, left_out)
    if config.output is None:
        for part in found:
            say(_listing(part) or "no item is left to recommend, see --keep_seen")
        for note in notes:
            warn(note)
        return
    rows = _write(config.output, found)
    what = f"{rows:,} recommendations for {len(histories):,} users in {config.output}"
    say(one_line("; ".join([what, *notes])))


def _histories(
    recommender: Recommender, config: RecommendConfig
) -> tuple[list[History], int]:
    """The histories that are asked about, and how many events were left out."""
    dataset = recommender.dataset
    if config.user is not None:
        return [recommender.of_user(config.user)], 0
    if config.history is not None:
        typed = [typed_ids(config.history)]
        try:
            return read_histories(dataset, typed, config.unknown, warn)
        except UserError as error:
            said = str(error).replace("histories[0]", "--history")
            raise UserError(said) from error
    path = config.input
    assert path is not None
    frame = read_history_file(path, _report)
    return read_histories(dataset, frame, config.unknown, _report, path)


def _report(message: str) -> None:
    warn(message.removeprefix("warning: "))


def _notes(histories: Sequence[History], left_out: int) -> list[str]:
    """What is not as usual with the answer."""
    notes = []
    if left_out:
        notes.append(
            f"{left_out:,} event{'s' if left_out > 1 else ''} with items that the "
            "catalog does not hold left out (--unknown skip)"
        )
    empty = [history.user for history in histories if not len(history.slots)]
    if len(histories) == 1 and empty:
        notes.append(
            "the history is empty: these are the most popular items, and their share "
            "of the training events"
        )
    elif empty:
        notes.append(
            f"{len(empty):,} users without history got the most popular items, the "
            f"first is {shown(empty[0])}"
        )
    return notes


def _listing(found: pd.DataFrame) -> str:
    """Returns recommendations as lines: rank, probability, item and title."""
    columns = (found[name] for name in ("rank", "probability", "item", "title"))
    return "\n".join(
        one_line(f"{rank:>4}  {probability:8.4%}  {item}  {title}")
        for rank, probability, item, title in zip(*columns, strict=True)
    )


def _write(path: Path, parts: Iterable[pd.DataFrame]) -> int:
    """Writes a CSV or Parquet file whole, and returns the number of its rows."""
    done = list(tqdm(parts, unit="chunk", disable=None))
    frame = pd.concat(done, ignore_index=True)
    name = path.name.lower()
    packed = next((kind for end, kind in _PACKED.items() if name.endswith(end)), None)
    with new_file(path) as partial:
        if name.removesuffix(path.suffix.lower() if packed else "").endswith(".csv"):
            with pa.output_stream(str(partial), compression=packed) as file:
                frame.to_csv(file, index=False, mode="wb")
        else:
            frame.to_parquet(partial, index=False)
    return len(frame)
