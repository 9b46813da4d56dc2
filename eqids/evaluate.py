"""Evaluate: `python -m eqids.evaluate`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from eqids.cli import LOADING, check_output, parse, run_as_process, say, waiting
from eqids.config import EvaluateConfig
from eqids.io.atomic import write_json

if TYPE_CHECKING:
    import numpy as np

    from eqids.data import Dataset

    _Measured = tuple[Dataset, np.ndarray, Callable[[], Mapping[str, Any]]]
    """The dataset with the targets, their ranks, and what makes the result."""

DESCRIPTION = """Rank every target of a split in the full catalog.

The table compares the model with baselines that count: popularity, a Markov chain,
ItemKNN and EASE, with the items of the history filtered and kept. A last line says if
one of them is better on validation. For example:

    python -m eqids.evaluate --checkpoint runs/ml-100k-nano-all-seed0
    python -m eqids.evaluate --checkpoint runs/mine/600 --split valid --json valid.json
    python -m eqids.evaluate --init_from exported/mine

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
    with waiting(LOADING):
        from eqids.fit.results import table
        from sharding import barrier, initialize, is_first

    initialize(**dataclasses.asdict(config.processes))
    measured = _of_model if config.recommendations is None else _of_lists
    dataset, ranked, counted = measured(config)
    if is_first():
        result = counted()
        say(table(result))
        if config.json is not None:
            write_json(config.json, result)
            say(f"written to {config.json}")
        if config.per_user is not None:
            _write_per_user(config, dataset, ranked)
            say(f"written to {config.per_user}")
    barrier("the result is written")


def _of_model(config: EvaluateConfig) -> "_Measured":
    from eqids.fit.evaluation import evaluation, make_ranker, of_some_users, rank_users
    from eqids.fit.results import full_result
    from eqids.inference.open import open_model
    from sharding import placement

    put, split = placement("data"), config.split
    with put.active():
        opened = open_model(config, put)
        seq_len = opened.config.recipe.seq_len
        ranker = make_ranker(seq_len, opened.dtype, put, opened.tokens, opened.prefix)
        dataset = of_some_users(opened.dataset, config.eval_users)
        ranked = rank_users(opened.model, dataset, split, ranker)
        metrics = evaluation(opened.model, split, ranked)
    result = partial(
        full_result,
        dataset,
        split,
        metrics,
        step=opened.step,
        validated=opened.validated,
        report=say,
        request_time=opened.model.config.request_time,
    )
    return dataset, ranked, result


def _of_lists(config: EvaluateConfig) -> "_Measured":
    from eqids.data import open_dataset
    from eqids.data.raw.recommended_lists import read_lists
    from eqids.fit.evaluation import of_some_users
    from eqids.fit.given_lists import evaluate_lists, lists_notes, ranks_in_lists
    from eqids.fit.results import full_result

    assert config.recommendations is not None and config.data_dir is not None
    whole, split = open_dataset(config.data_dir), config.split
    lists = read_lists(config.recommendations, whole)
    dataset = of_some_users(whole, config.eval_users)
    ranked = ranks_in_lists(lists, dataset, split)
    metrics = evaluate_lists(lists, dataset, split, ranked)
    for note in lists_notes(metrics):
        say(note)
    result = partial(
        full_result,
        dataset,
        split,
        metrics,
        step=None,
        validated=None,
        report=say,
        lists=lists.path,
    )
    return dataset, ranked, result


def _write_per_user(
    config: EvaluateConfig, dataset: "Dataset", ranked: "np.ndarray"
) -> None:
    from eqids.fit.baseline_ranks import BASELINES, baseline_ranks
    from eqids.fit.results import reasons_left_out
    from eqids.fit.user_results import write_user_results

    assert config.per_user is not None
    names = BASELINES.keys() - reasons_left_out(dataset).keys()
    counted = {
        name: baseline_ranks(name, [(dataset, config.split)], say)[0]
        for name in BASELINES
        if name in names
    }
    write_user_results(config.per_user, dataset, config.split, ranked, counted)


if __name__ == "__main__":
    run_as_process(main)
