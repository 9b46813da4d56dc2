"""Recommend: `python -m eqids.recommend`."""

from collections.abc import Sequence

from eqids.cli import check_output, parse, run
from eqids.config import RecommendConfig

DESCRIPTION = """Name the most probable next items, exactly, with their probabilities.

For a user of the dataset, for a history given as item ids, or for a Parquet or CSV
file of histories (columns user, item and, if known, time); those of a file go to
another file:

    python -m eqids.recommend --checkpoint runs/ml-100k-nano-all-seed0 --user 1
    python -m eqids.recommend --checkpoint runs/mine --history 50,181,172 --k 5
    python -m eqids.recommend --init_from exported/mine --user 1
    python -m eqids.recommend --checkpoint runs/mine --input a.parquet \\
        --output b.parquet
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints recommendations, or writes those of a file to another."""
    config = parse(RecommendConfig, argv, "eqids.recommend", DESCRIPTION)
    check_output(config.output, "--output", config.overwrite)
    # Imported here: --help and a mistyped flag do not wait for jax.
    from eqids.recommending import recommend

    recommend(config)


if __name__ == "__main__":
    run(main)
