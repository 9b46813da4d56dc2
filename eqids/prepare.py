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
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eqids.cli import parse, run_as_process, say, shell_word, visible
from eqids.config import PrepareConfig

if TYPE_CHECKING:
    import numpy as np

    from eqids.data.clustering.cluster_items import TextEncoder


def main(argv: Sequence[str] | None = None) -> None:
    """Reads flags, prepares the dataset and prints its numbers."""
    config = parse(PrepareConfig, argv, "eqids.prepare", __doc__)
    # Imported here, so that --help and a mistyped flag do not wait for pandas.
    from eqids.data.preparation import prepare
    from eqids.data.raw.collected_events import after_recorded_dataset
    from eqids.data.summary import summary

    start = time.perf_counter()
    config = after_recorded_dataset(config)
    llama_path = config.llama_path
    encode = None if llama_path is None else _text_encoder(llama_path)
    dataset = prepare(config, _report, encode)
    say(summary(dataset))
    say(f"done in {time.perf_counter() - start:.1f} s; next:")
    say(f"  python -m {_next_command(config)}")


def _report(message: str) -> None:
    """Prints a message above a progress bar."""
    from tqdm import tqdm

    tqdm.write(visible(message), sys.stdout)


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


def _next_command(config: PrepareConfig) -> str:
    """Returns the command that trains, or continues a run of the catalog."""
    other = "" if config.catalog is None else " --continue_from RUN"
    return f"eqids.train{other} --data_dir {shell_word(str(config.folder))}"


if __name__ == "__main__":
    run_as_process(main)
