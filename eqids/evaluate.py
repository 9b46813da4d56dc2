"""Evaluate: `python -m eqids.evaluate`."""

import dataclasses
from collections.abc import Sequence

from eqids.cli import check_output, parse, run_as_process, say
from eqids.config import EvaluateConfig
from eqids.io.atomic import write_json

DESCRIPTION = """Rank every target of a split in the full catalog.

The table compares the model with baselines that count: popularity, a Markov chain,
ItemKNN and EASE, with the items of the history filtered and kept. A last line says if
one of them is better on validation. For example:

    python -m eqids.evaluate --checkpoint runs/ml-100k-nano-all-seed0
    python -m eqids.evaluate --checkpoint runs/mine/600 --split valid --json valid.json
    python -m eqids.evaluate --init_from exported/mine
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the metrics of a model, and writes them with --json."""
    config = parse(EvaluateConfig, argv, "eqids.evaluate", DESCRIPTION)
    check_output(config.json, "--json")
    # Imported here: --help and a mistyped flag do not wait for jax.
    from eqids.fit.evaluation import evaluate, make_ranker, of_some_users
    from eqids.fit.results import full_result, table
    from eqids.inference.open import open_model
    from sharding import barrier, initialize, is_first, placement

    initialize(**dataclasses.asdict(config.processes))
    put = placement("data")
    with put.active():
        opened = open_model(config, put)
        seq_len = opened.config.recipe.seq_len
        ranker = make_ranker(seq_len, opened.dtype, put, opened.tokens, opened.prefix)
        dataset, split = of_some_users(opened.dataset, config.eval_users), config.split
        metrics = evaluate(opened.model, dataset, split, ranker)
    if is_first():
        request_time = opened.model.config.request_time
        result = full_result(
            dataset, split, metrics, opened.step, opened.validated, say, request_time
        )
        say(table(result))
        if config.json is not None:
            write_json(config.json, result)
            say(f"written to {config.json}")
    barrier("the result is written")


if __name__ == "__main__":
    run_as_process(main)
