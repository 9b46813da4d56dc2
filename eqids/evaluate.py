"""Evaluate: `python -m eqids.evaluate`."""

from collections.abc import Sequence

from eqids.config import EvaluateConfig
from eqids.door import parse, run
from eqids.fit.evaluation import evaluate, make_ranker
from eqids.fit.runs import write_json
from eqids.opening import open_checkpoint
from eqids.report import full_result, table
from sharding import placement

DESCRIPTION = """Rank every target of a split in the full catalog.

The table shows popularity, a count-based Markov chain and the model, with items of
the history filtered and not. For example:

    python -m eqids.evaluate --checkpoint runs/ml-100k-nano-all-seed0
    python -m eqids.evaluate --checkpoint runs/mine/600 --split valid --json valid.json
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the metrics of a checkpoint, and writes them with --json."""
    config = parse(EvaluateConfig, argv, "eqids.evaluate", DESCRIPTION)
    put = placement("data")
    with put.active():
        opened = open_checkpoint(
            config.checkpoint, config.data_dir, config.llama_path, put
        )
        ranker = make_ranker(opened.config.recipe.seq_len, opened.dtype, put)
        dataset, split = opened.dataset, config.split
        metrics = evaluate(opened.model, dataset, split, ranker)
    result = full_result(dataset, split, metrics, opened.manifest.step)
    print(table(result))
    if config.json is not None:
        write_json(config.json, result)
        print(f"written to {config.json}")


if __name__ == "__main__":
    run(main)
