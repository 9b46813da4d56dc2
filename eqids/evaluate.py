"""Evaluate: `python -m eqids.evaluate`."""

import dataclasses
from collections.abc import Sequence

from eqids.cli import check_output, loading, parse, run_as_process, say
from eqids.config import EvaluateConfig
from eqids.io.atomic import write_json

DESCRIPTION = """Rank every target of a split in the full catalog.

The table compares the model with baselines that count: popularity, a Markov chain,
ItemKNN and EASE, with the items of the history filtered and kept. A last line says if
one of them is better on validation. For example:

    python -m eqids.evaluate --checkpoint runs/ml-100k-nano-all-seed0
    python -m eqids.evaluate --checkpoint runs/mine/600 --split valid --json valid.json
    python -m eqids.evaluate --init_from exported/mine

More metrics of the recommended lists, and calibration of the probabilities:

    python -m eqids.evaluate --checkpoint runs/mine --metrics all

From several times on, with cold and warm users apart (data prepared with
--split temporal):

    python -m eqids.evaluate --checkpoint runs/mine --split temporal \\
        --cut_times 2024-05-01 2024-06-01

Lists that another system recommends, by the same protocol; and ranks of every user, to
test differences:

    python -m eqids.evaluate --recommendations theirs.parquet --data_dir data/mine
    python -m eqids.evaluate --checkpoint runs/mine --per_user ranks.parquet
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the metrics of a model or of given lists, and writes them with --json."""
    config = parse(EvaluateConfig, argv, "eqids.evaluate", DESCRIPTION)
    check_output(config.json, "--json")
    check_output(config.per_user, "--per_user")
    # Imported here: --help and a mistyped flag do not wait for jax.
    with loading():
        from eqids.fit.user_results import write_user_results
        from eqids.reporting.evaluations import evaluations, result_of
        from eqids.reporting.list_results import result_text
        from sharding import barrier, initialize, is_first

    initialize(**dataclasses.asdict(config.processes))
    found = evaluations(config, say)
    if is_first():
        results = [result_of(one, config, say) for one in found]
        for result in results:
            say(result_text(result, config.metric_names))
        if config.json is not None:
            temporal = {"split": config.split, "cuts": results}
            write_json(
                config.json, temporal if config.split == "temporal" else results[0]
            )
            say(f"written to {config.json}")
        if config.per_user is not None:
            (one,) = found
            write_user_results(
                config.per_user, one.dataset, one.split, one.ranked, one.counted(say)
            )
            say(f"written to {config.per_user}")
    barrier("the result is written")


if __name__ == "__main__":
    run_as_process(main)
