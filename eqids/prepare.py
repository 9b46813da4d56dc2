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

The first fetches MovieLens-100K into data/ml-100k. --text says what a Llama may read
of an item, by columns of the items; --cluster_vectors text clusters items by what a
Llama makes of that, used or not. The last gives items the places that they have in
yesterday's dataset, so that its checkpoints go on: today.csv must hold all events,
yesterday's too. Users and items keep your ids; histories are split into training,
validation and test events, and items are clustered by who used them. Then train with
`python -m eqids.train --data_dir DIR`.
"""

from collections.abc import Sequence

from eqids.cli import parse, run
from eqids.config import PrepareConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Reads flags, prepares the dataset and says what it holds."""
    config = parse(PrepareConfig, argv, "eqids.prepare", __doc__)
    from eqids.preparing import prepare_and_report

    prepare_and_report(config)


if __name__ == "__main__":
    run(main)
