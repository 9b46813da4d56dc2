"""Results: metrics of a model and of baselines with the protocol, as values or a
table."""

from collections.abc import Mapping
from typing import Any

from eqids.config import to_json
from eqids.data import Dataset
from eqids.fit.baselines import MARKOV_ORDER, evaluate_baseline, markov, popularity
from eqids.fit.evaluation import Evaluation, Split

RESULT_FILE = "result.json"
"""A run's result on the test split, in its folder."""

REQUEST_TIME = "request_time"
"""A field of the protocol of models that know when each target was requested. Their
results are comparable only with one another."""

_SHOWN = ("recall@10", "ndcg@10", "mrr@10", "recall@50", "ndcg@50")


def full_result(
    dataset: Dataset,
    split: Split,
    model: Evaluation,
    step: int,
    request_time: bool = False,
) -> dict[str, Any]:
    """Returns a model's metrics with the baselines' and the protocol beside them.

    Args:
        dataset: the dataset that the model was evaluated on.
        split: the split that has the targets.
        model: the model's metrics, from `eqids.fit.evaluation.evaluate`.
        step: the checkpoint's step.
        request_time: whether the model knew when each target was requested.
    """
    return {
        **model,
        "step": step,
        "popularity": evaluate_baseline(dataset, split, popularity(dataset)),
        "markov": evaluate_baseline(dataset, split, markov(dataset)),
        "protocol": {
            **to_json(dataset.info.protocol),
            "source": dataset.info.source,
            "dataset_hash": dataset.info.dataset_hash,
            "catalog_id": dataset.info.catalog_id,
            "candidates": "full catalog",
            "tied_scores": "rank = 1 + items strictly above + half of the ties",
            "filtered": "items of the history are not ranked; a target among them "
            "counts as missed",
            **({REQUEST_TIME: True} if request_time else {}),
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """Returns a result as a table, in lines to print."""
    rows = [("popularity", result["popularity"])]
    rows += [(f"Markov, last {MARKOV_ORDER}", result["markov"]), ("EqIDs", result)]
    lines = [
        f"{result['split']} split, {result['num_users']:,} users, full catalog, step "
        f"{result['step']}"
    ]
    if result["protocol"].get(REQUEST_TIME):
        lines.append("EqIDs knows when each target was requested (--request_time)")
    for side, label in (("filtered", "seen filtered"), ("unfiltered", "seen kept")):
        lines.append(f"{label:16}" + "".join(f"{name:>11}" for name in _SHOWN))
        for name, values in rows:
            cells = "".join(f"{values[side][metric]:11.4f}" for metric in _SHOWN)
            lines.append(f"  {name:14}{cells}")
    lines.append(
        f"negative log-likelihood {result['nll']:.4f}; "
        f"{100 * result['seen_target_share']:.1f}% of targets were seen before"
    )
    return "\n".join(lines)
