"""Results: metrics of a model and of baselines with the protocol, as values or a
table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from eqids.config import to_json
from eqids.data import Dataset
from eqids.data.raw.times import date
from eqids.fit.baseline_ranks import (
    BASELINES,
    baseline_metrics,
    baseline_ranks,
    why_left_out,
)
from eqids.fit.evaluation import Evaluation, Split

RESULT_FILE = "result.json"
"""A run's result on the split of --result_split, in its folder."""

REPORT_FILE = "report.html"
"""What the report of a run is called, in its folder."""

REQUEST_TIME = "request_time"
"""A field of the protocol of models that know when each target was requested. Their
results are comparable only with one another."""

LISTS = "recommendations"
"""A field of the protocol of lists that another system made: their file."""

CANDIDATES = "candidates"
"""A field of the protocol: what is ranked, the full catalog or given candidates."""

CUT_TIME = "cut_time"
"""A field of the protocol of an evaluation from a given time on, in unix seconds."""

MODEL = "eqids"
"""The model's name beside those of the baselines."""

_MANY_SEEN = 0.1
"""A table explains seen targets if they are more than this share."""
_SHOWN = ("recall@10", "ndcg@10", "mrr@10", "recall@50", "ndcg@50")


RanksOf = Callable[
    [str, Sequence[tuple[Dataset, Split]], Callable[[str], None]],
    list[Float32[np.ndarray, "user 2"]],
]
"""Returns the ranks of a baseline, see `baseline_ranks`."""


@dataclass(frozen=True)
class Variation:
    """What an evaluation differs in from that of a model on the full catalog.

    Attributes:
        request_time: the model knew when each target was requested.
        lists: the file of lists that were evaluated in place of a model.
        candidates: the file of the only items that were ranked for each user.
        cut_time: unix time before which histories end and from which targets are.
    """

    request_time: bool = False
    lists: Path | None = None
    candidates: Path | None = None
    cut_time: int | None = None

    def protocol(self) -> dict[str, Any]:
        """Returns the fields of the protocol that it changes or adds."""
        found: dict[str, Any] = {}
        if self.request_time:
            found[REQUEST_TIME] = True
        if self.lists is not None:
            found[LISTS] = str(self.lists)
        if self.candidates is not None:
            found[CANDIDATES] = (
                f"those of {self.candidates}, not the full catalog: not comparable "
                "with results on it"
            )
        if self.cut_time is not None:
            found[CUT_TIME] = self.cut_time
            found["split"] = "temporal"
            found["history_at_test"] = "all events before the cut time"
        return found


@dataclass(frozen=True)
class Validated:
    """A model's NDCG@10 on validation, seen items filtered.

    Attributes:
        dataset: the dataset, with the targets of the users that it was measured on.
        ndcg: the mean over these users.
    """

    dataset: Dataset
    ndcg: float


_PLAIN = Variation()


def full_result(
    dataset: Dataset,
    split: Split,
    model: Evaluation | Mapping[str, Any],
    step: int | None,
    validated: Validated | None,
    report: Callable[[str], None],
    variation: Variation = _PLAIN,
    ranks_of: RanksOf = baseline_ranks,
) -> dict[str, Any]:
    """Returns a model's metrics with the baselines' and the protocol beside them.

    Args:
        dataset: the dataset that the model was evaluated on.
        split: the split that has the targets.
        model: the model's metrics, from `eqids.fit.evaluation.evaluate`, or those of
            given lists.
        step: the checkpoint's step, or None for given lists.
        validated: what is known of these weights on validation, if `split` is `test`.
        report: receives messages about what takes long.
        variation: what the evaluation differs in from a plain one.
        ranks_of: returns the ranks of a baseline.
    """
    if split == "valid" and "ndcg@10" in model["filtered"]:
        validated = Validated(dataset, model["filtered"]["ndcg@10"])
    left_out = reasons_left_out(dataset)
    wanted: list[tuple[Dataset, Split]] = [(dataset, split)]
    if validated is not None and split == "test":
        wanted.append((validated.dataset, "valid"))
    counted = {
        name: list(map(baseline_metrics, ranks_of(name, wanted, report)))
        for name in BASELINES
        if name not in left_out
    }
    return {
        **model,
        "step": step,
        **{name: found[0] for name, found in counted.items()},
        "left_out": left_out,
        **_on_validation(
            validated, {name: found[-1] for name, found in counted.items()}
        ),
        "protocol": {
            **to_json(dataset.info.protocol),
            "source": dataset.info.source,
            "dataset_hash": dataset.info.dataset_hash,
            "catalog_id": dataset.info.catalog_id,
            CANDIDATES: "full catalog",
            "tied_scores": "rank = 1 + items strictly above + half of the ties",
            "filtered": "items of the history are not ranked; a target among them "
            "counts as missed",
            **variation.protocol(),
        },
    }


def reasons_left_out(dataset: Dataset) -> dict[str, str]:
    """Returns why baselines are left out, for those for which a dataset is too
    large."""
    reasons = {name: why_left_out(name, dataset) for name in BASELINES}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _on_validation(
    validated: Validated | None, counted: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """NDCG@10 on validation of the model and of baselines, and which are better."""
    if validated is None:
        return {"valid_ndcg@10": None, "behind": None}
    scores = {name: found["filtered"]["ndcg@10"] for name, found in counted.items()}
    return {
        "valid_ndcg@10": {MODEL: validated.ndcg, **scores},
        "behind": [name for name, score in scores.items() if score > validated.ndcg],
    }


def table(result: Mapping[str, Any]) -> str:
    """Returns a result as a table, in lines to print."""
    rows = {one.label: result.get(name) for name, one in BASELINES.items()}
    lists = result["protocol"].get(LISTS)
    rows["EqIDs" if lists is None else "given lists"] = result
    of = f"step {result['step']}" if lists is None else f"the lists of {lists}"
    ranked = result["protocol"][CANDIDATES]
    lines = [f"{result['split']} split, {result['num_users']:,} users, {ranked}, {of}"]
    if CUT_TIME in result["protocol"]:
        lines.append(
            f"from {date(result['protocol'][CUT_TIME])} on, by what was before"
        )
    if result["protocol"].get(REQUEST_TIME):
        lines.append("EqIDs knows when each target was requested (--request_time)")
    for side, label in (("filtered", "seen filtered"), ("unfiltered", "seen kept")):
        lines.append(f"{label:16}" + "".join(f"{name:>11}" for name in _SHOWN))
        for name, values in rows.items():
            if values is not None:
                cells = "".join(_cell(values[side].get(name)) for name in _SHOWN)
                lines.append(f"  {name:14}{cells}")
    if lists is None:
        lines.append(f"negative log-likelihood {result['nll']:.4f}")
        lines.append(_seen(result))
    for name, reason in result["left_out"].items():
        lines.append(f"no baseline {BASELINES[name].label}: {reason}")
    if result["behind"]:
        lines.append(_behind(result))
    return "\n".join(lines)


def _seen(result: Mapping[str, Any]) -> str:
    """Says how many targets were seen before, and what that means if they are many."""
    share = result["seen_target_share"]
    line = f"{100 * share:.1f}% of targets were seen before"
    if share <= _MANY_SEEN:
        return line
    line += (
        ": they count as missed where seen items are filtered; if people take items "
        "again, go by 'seen kept', and recommend with --keep_seen"
    )
    scores = {
        name: result[name]["unfiltered"]["ndcg@10"]
        for name in BASELINES
        if result.get(name) is not None
    }
    own = result["unfiltered"]["ndcg@10"]
    better = sorted((-score, name) for name, score in scores.items() if score > own)
    if not better:
        return line
    named = [f"{BASELINES[name].label} {_short(-score)}" for score, name in better]
    return (
        f"{line}\nbehind counting there: {', '.join(named)}, this model {_short(own)}"
    )


def _cell(value: float | None) -> str:
    return f"{'-':>11}" if value is None else f"{value:11.4f}"


def _behind(result: Mapping[str, Any]) -> str:
    """Says which baselines are better on validation than the model, best first."""
    scores = result["valid_ndcg@10"]
    better = sorted(result["behind"], key=lambda name: -scores[name])
    said = [f"{BASELINES[name].label} {_short(scores[name])}" for name in better]
    first, _, value = said[0].rpartition(" ")
    said[0] = f"{first} has NDCG@10 {value} on validation"
    return f"behind counting: {', '.join(said)}, this model {_short(scores[MODEL])}"


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")
