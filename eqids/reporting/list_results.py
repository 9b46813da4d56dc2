"""Metrics of recommended lists in results, those of baselines beside them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32

from eqids.data import Dataset
from eqids.data.raw.recommended_lists import GivenLists
from eqids.fit.baseline_ranks import BASELINES
from eqids.fit.calibration import calibration_metrics
from eqids.fit.evaluation import Split, target_slots, targets_of
from eqids.fit.list_metrics import LIST_METRICS, CatalogFacts, list_metrics
from eqids.fit.rank_cache import ranks_key
from eqids.fit.ranking import CUTOFFS
from eqids.fit.results import reasons_left_out, table
from eqids.fit.top_lists import LIST_LENGTH, TopLists, UserPass, lists_by
from eqids.io.cache_folder import cache_folder
from eqids.io.cached_arrays import read_arrays, write_arrays

DEFINITION = "1"
"""Version of cached lists: increase it whenever a change may change them."""

CALIBRATION = "calibration"
"""The name of the metrics of probabilities, which baselines do not have."""


def with_list_metrics(
    result: Mapping[str, Any],
    dataset: Dataset,
    split: Split,
    found: UserPass,
    names: Sequence[str],
) -> dict[str, Any]:
    """Returns a result with metrics of lists added to those of ranks.

    They are added to the metrics with seen items filtered and kept; those of baselines
    to the filtered ones.

    Args:
        result: from `full_result`.
        dataset: the dataset with the targets.
        split: the split that has them.
        found: the lists of the model, or of another system.
        names: of `LIST_METRICS`, and `CALIBRATION`.
    """
    facts, target = CatalogFacts.of(dataset), target_slots(dataset, split)
    of_lists = [name for name in names if name in LIST_METRICS]
    longest = result.get("longest_list", LIST_LENGTH)
    cutoffs = [k for k in CUTOFFS if k <= longest] or [1]
    added = dict(result)
    for side, lists in (("filtered", found.filtered), ("unfiltered", found.unfiltered)):
        more = list_metrics(lists.slots, target, facts, of_lists, cutoffs)
        if CALIBRATION in names and lists.log_probs is not None:
            more |= calibration_metrics(lists, target, cutoffs)
        # A mean over nobody is not a number, and JSON has none.
        known = {name: value for name, value in more.items() if not np.isnan(value)}
        added[side] = {**result[side], **known}
    left_out = reasons_left_out(dataset)
    for name in BASELINES:
        if name not in left_out and of_lists:
            slots = baseline_lists(name, dataset, split)
            more = list_metrics(slots, target, facts, of_lists, CUTOFFS)
            sides = result[name]
            added[name] = {**sides, "filtered": {**sides["filtered"], **more}}
    return added


def baseline_lists(
    name: str,
    dataset: Dataset,
    split: Split,
    report: Callable[[str], None] = lambda text: None,
) -> Int32[np.ndarray, "user k"]:
    """Returns the lists of a baseline without seen items, from the cache or computed.

    Args:
        name: the baseline's.
        dataset: the dataset with the targets; it is not too large for the baseline.
        split: the split that has them.
        report: receives a warning if the cache cannot be written to.
    """
    key = ranks_key(name, dataset, split)
    path = cache_folder() / "lists" / f"{key}.safetensors"
    source = {"key": key, "definition": DEFINITION}
    kept = read_arrays(path, source)
    if kept is not None:
        return kept["slots"]
    slots = lists_by(BASELINES[name].scorer(dataset), dataset, split).slots
    path.parent.mkdir(exist_ok=True)
    write_arrays(path, {"slots": slots}, source, report, "lists are computed again")
    return slots


def lists_as_pass(
    lists: GivenLists,
    dataset: Dataset,
    split: Split,
    ranked: Float[np.ndarray, "user 2"],
) -> UserPass:
    """Returns the lists of another system in the form of a model's.

    Items that the catalog lacks keep their places, as padding.

    Args:
        lists: from `read_lists`.
        dataset: the dataset with the targets.
        split: the split that has them.
        ranked: from `ranks_in_lists`.
    """
    users, positions = targets_of(dataset, split)
    whole = np.full((len(users), LIST_LENGTH), -1, np.int32)
    left = whole.copy()
    for row, (user, at) in enumerate(zip(users.tolist(), positions, strict=True)):
        own, seen = lists.of(user), dataset.history(user)[:at]
        for slots, one in ((whole, own), (left, own[~np.isin(own, seen)])):
            length = min(len(one), LIST_LENGTH)
            slots[row, :length] = one[:length]
    unknown = np.zeros((len(users), 1))
    return UserPass(np.hstack([ranked, unknown]), TopLists(left), TopLists(whole))


def result_text(result: Mapping[str, Any], names: Sequence[str]) -> str:
    """Returns a result as tables, in lines to print.

    Args:
        result: of one evaluation.
        names: the metrics of lists that flags ask for.
    """
    parts = [table(result)]
    if names:
        parts.append(list_table(result, names))
    if "by_history" in result:
        parts.append(groups_table(result["by_history"]))
    return "\n".join(part for part in parts if part)


_SHOWN = ("hit_rate", "precision", "map", "coverage", "gini", "novelty", "popularity",
          "diversity", "serendipity")  # fmt: skip


def list_table(result: Mapping[str, Any], names: Sequence[str], k: int = 10) -> str:
    """Returns metrics of lists as a table, in lines to print.

    Args:
        result: from `with_list_metrics`.
        names: the metrics that flags ask for.
        k: the cutoff that is shown.
    """
    shown = {name: max(10, len(name) + 2) for name in _SHOWN if name in names}
    rows = {one.label: result.get(name) for name, one in BASELINES.items()}
    rows["EqIDs" if result["step"] is not None else "given lists"] = result
    lines = []
    if shown:
        title = f"top {k}, seen out"
        head = "".join(f"{name:>{width}}" for name, width in shown.items())
        lines.append(f"{title:16}{head}")
        for label, one in rows.items():
            if one is not None:
                found = one["filtered"]
                cells = (_cell(found.get(f"{n}@{k}"), w) for n, w in shown.items())
                lines.append(f"  {label:14}{''.join(cells)}")
    if CALIBRATION in names and f"ece@{k}" in result["unfiltered"]:
        own = result["unfiltered"]
        lines.append(
            f"calibration: the {k} most probable items have a probability of "
            f"{own[f'confidence@{k}']:.4f} together and hold "
            f"{own[f'recall@{k}']:.4f} of the targets; expected calibration error "
            f"{own[f'ece@{k}']:.4f} (a calibrated model: "
            f"{own[f'calibrated_ece@{k}']:.4f})"
        )
    return "\n".join(lines)


def _cell(value: float | None, width: int) -> str:
    if value is None or np.isnan(value):
        return f"{'-':>{width}}"
    return f"{value:{width}.1f}" if value >= 1000 else f"{value:{width}.4g}"


def groups_table(groups: Mapping[str, Any]) -> str:
    """Returns the metrics of cold, warm and new users, in lines to print.

    Args:
        groups: `by_history` of a result.
    """
    lines = [f"{'users':34}{'':>8}{'recall@10':>11}{'ndcg@10':>11}   (seen filtered)"]
    about = {
        "cold": f"cold, under {groups['cold_history']} events",
        "warm": f"warm, {groups['cold_history']} or more",
        "new": "new, no event (popularity)",
    }
    for name, label in about.items():
        group = groups.get(name)
        if group is None:
            continue
        rows = {"": group}
        rows |= {
            one.label: group[key] for key, one in BASELINES.items() if key in group
        }
        for of, one in rows.items():
            title = f"{label}, {group['num_users']:,} users" if not of else f"  {of}"
            values = [one["filtered"][n] for n in ("recall@10", "ndcg@10")]
            cells = "".join(f"{value:11.4f}" for value in values)
            lines.append(f"  {title:40}{cells}")
    return "\n".join(lines)
