"""Makes a dataset folder from raw interactions.

    python -m eqids.prepare
    python -m eqids.prepare --source ml-1m --data_dir data/ml-1m
    python -m eqids.prepare --source csv:plays.csv --data_dir data/plays \\
        --user_column listener --item_column track --time_column played_at \\
        --items tracks.csv --title_column name --min_user_interactions 3

    python -m eqids.prepare --text "{title} ({year}), {genres}"

    python -m eqids.prepare --cluster_vectors text --llama_path llamas/smollm2

    python -m eqids.prepare --source csv:today.csv --data_dir data/today \\
        --catalog data/plays

    python -m eqids.prepare --append csv:new.csv --data_dir data/tomorrow \\
        --catalog data/today

    python -m eqids.prepare --engine spark --source parquet:plays --data_dir data/plays

    python -m eqids.prepare --source events:served.sqlite --data_dir data/next

The first command fetches MovieLens-100K into data/ml-100k. --text is a template of the
text that Llama reads beside an item, by columns of the items. --cluster_vectors text
clusters items by a Llama's hidden states of that text. --catalog keeps the slots that
items have in yesterday's dataset, so that its checkpoints can be trained further:
today.csv must hold all events, yesterday's too. --append takes the old events from the
dataset instead. --engine spark prepares on a cluster of Spark. The last command
continues the dataset that `python -m eqids.serve --events served.sqlite` served, and
adds the events that the server collected. Users and items keep your ids; each history
is split into training, validation and test events, and items are clustered by who used
them. Then train with `python -m eqids.train --data_dir DIR`.

From Python, `eqids.prepare(frame, "data/plays", items=tracks)` does the same with
DataFrames; arguments have the names of the flags.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqids.cli import (
    config_of,
    loading,
    make_callable,
    parse,
    reported,
    run_as_process,
    say,
    say_above_bars,
    shell_word,
)
from eqids.config import PrepareConfig, require

if TYPE_CHECKING:
    import numpy as np

    from eqids.data import Dataset
    from eqids.data.clustering.cluster_items import TextEncoder


def main(argv: Sequence[str] | None = None) -> None:
    """Reads flags, prepares the dataset and prints its numbers."""
    config = parse(PrepareConfig, argv, "eqids.prepare", __doc__)
    start = time.perf_counter()
    dataset = _prepared(config)
    # Imported late, here and below: --help and a mistyped flag do not wait for pandas.
    from eqids.data.summary import summary

    say(summary(dataset))
    say(f"done in {time.perf_counter() - start:.1f} s; next:")
    say(f"  python -m {_next_command(config, dataset)}")


def prepare_dataset(
    source: Any = None,
    data_dir: Path | str | None = None,
    items: Any = None,
    *,
    config: PrepareConfig | None = None,
    report: Callable[[str], None] | None = None,
    progress: bool = False,
    **flags: Any,
) -> "Dataset":
    """Makes a dataset folder, as `python -m eqids.prepare` does; it is `eqids.prepare`.

        eqids.prepare(plays, "data/plays", items=tracks, user_column="listener")

    Args:
        source: the interactions: a DataFrame, a pyarrow table or any other table with
            the Arrow interface, a row each in the order in which they happened, with
            the columns of `user_column`, `item_column` and `time_column`; or a source
            of the command, such as "csv:plays.csv".
        data_dir: the dataset folder to write.
        items: titles and texts of items, as a table or as the path of a file.
        config: flags, where the arguments give none.
        report: receives the messages that the command prints. By default they are
            dropped, and warnings become Python's warnings.
        progress: whether to show progress bars.
        flags: flags of the command by name, see `eqids.config.PrepareConfig`.

    Returns:
        The dataset, opened. `path` is its folder, `info` has its facts, `items()` and
        `users()` are DataFrames.

    Raises:
        UserError: a flag or the data is invalid; the message names the first fault.
    """
    # Imported here, so that `import eqids` does not wait for pandas.
    from eqids.data.raw.frames import FRAME, frame_files, is_table, renamed

    given = {"source": source, "data_dir": data_dir, "items": items}
    given = {name: value for name, value in given.items() if value is not None} | flags
    with reported(report, progress), frame_files() as files:
        for name, prefix in (("source", "parquet:"), ("items", "")):
            if is_table(given.get(name)):
                given[name] = f"{prefix}{files.write(name, given[name])}"
        found = config_of(PrepareConfig, config, given, "eqids.prepare")
        if not is_table(source):
            return _prepared(found, renamed(say_above_bars, files))
        require(
            found.data_dir is not None,
            "eqids.prepare of a DataFrame needs data_dir, the dataset folder to write",
        )
        return _prepared(found, renamed(say_above_bars, files), FRAME)


def _prepared(
    config: PrepareConfig,
    report: Callable[[str], None] = say_above_bars,
    recorded_source: str | None = None,
) -> "Dataset":
    """Prepares a dataset; the command and the function share it."""
    with loading():
        from eqids.data.preparation import prepare
        from eqids.data.raw.collected_events import after_recorded_dataset

    config = after_recorded_dataset(config)
    llama_path = config.llama_path
    encode = None if llama_path is None else _text_encoder(llama_path)
    return prepare(config, report, encode, recorded_source)


def _text_encoder(llama_path: Path) -> "TextEncoder":
    """Checks a Llama, and returns a function that makes vectors of texts with it."""
    import convert
    from eqids.data.batches.item_texts import tokenizer_file, tokens_of_texts
    from eqids.runs.run_tokens import check_vocab
    from eqids.runs.text_vectors import MOST_TOKENS, principal, text_vectors
    from sharding import placement

    sizes, tokenizer = convert.check_llama(llama_path), tokenizer_file(None, llama_path)

    def encode(texts: Sequence[str], width: int) -> "np.ndarray":
        tokens = tokens_of_texts(texts, tokenizer, MOST_TOKENS)
        check_vocab(tokens, sizes)
        put = placement("none")
        llama = convert.load_llama(llama_path, "float32", put, head=False)
        return principal(text_vectors(llama, tokens, "float32", put), width)

    return encode


def _next_command(config: PrepareConfig, dataset: "Dataset") -> str:
    """Returns the command that trains, or continues a run of the catalog."""
    continues = config.catalog is not None or config.source.startswith("events:")
    other = " --continue_from RUN" if continues else ""
    return f"eqids.train{other} --data_dir {shell_word(str(dataset.path))}"


make_callable(__name__, prepare_dataset)


if __name__ == "__main__":
    run_as_process(main)
