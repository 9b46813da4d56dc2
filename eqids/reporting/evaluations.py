"""What `python -m eqids.evaluate` measures: a model or lists, by what its flags say."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from eqids.config import EvaluateConfig
from eqids.data import Dataset, open_dataset
from eqids.data.raw.recommended_lists import GivenLists, read_lists
from eqids.fit.baseline_ranks import BASELINES, baseline_ranks
from eqids.fit.candidate_ranks import (
    baseline_candidate_ranks,
    candidate_notes,
    model_candidate_ranks,
    with_candidates,
)
from eqids.fit.cut_times import at_cut, cut_times, new_users
from eqids.fit.evaluation import (
    Evaluation,
    Ranker,
    Split,
    evaluation,
    make_ranker,
    of_some_users,
    rank_users,
)
from eqids.fit.given_lists import (
    ListsEvaluation,
    evaluate_lists,
    lists_notes,
    ranks_in_lists,
)
from eqids.fit.results import (
    RanksOf,
    Validated,
    Variation,
    full_result,
    reasons_left_out,
)
from eqids.fit.top_lists import UserPass, make_lister, pass_over_users
from eqids.fit.user_groups import COLD_HISTORY, metrics_by_history, new_user_metrics
from eqids.inference.open import Opened, open_model
from eqids.reporting.list_results import lists_as_pass, with_list_metrics
from sharding import Placement, placement


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One evaluation: what was ranked, before baselines are computed beside it.

    Attributes:
        dataset: the dataset with the targets.
        split: the split that has them.
        ranked: ranks, filtered and unfiltered, and log-probabilities if there are any.
        metrics: the metrics of the ranks.
        variation: what it differs in from an evaluation on the full catalog.
        step: the checkpoint's step; None for lists.
        validated: what is known of the model on validation.
        found: the recommended lists, if --metrics asks for them.
        ranks_of: returns the ranks of a baseline for the same targets.
    """

    dataset: Dataset
    split: Split
    ranked: Float[np.ndarray, "user columns"]
    metrics: Evaluation | ListsEvaluation
    variation: Variation
    step: int | None = None
    validated: Validated | None = None
    found: UserPass | None = None
    ranks_of: RanksOf = baseline_ranks

    def counted(
        self, report: Callable[[str], None]
    ) -> Mapping[str, Float[np.ndarray, "user 2"]]:
        """Returns the ranks of each baseline for which the dataset is not too large.

        Args:
            report: receives messages about what takes long.
        """
        left_out = reasons_left_out(self.dataset)
        return {
            name: self.ranks_of(name, [(self.dataset, self.split)], report)[0]
            for name in BASELINES
            if name not in left_out
        }


def evaluations(
    config: EvaluateConfig, report: Callable[[str], None]
) -> list[Evaluated]:
    """Returns the evaluations that flags ask of a model or of given lists.

    Args:
        config: the flags.
        report: receives messages.

    Returns:
        One, or one for each cut time of a temporal split.

    Raises:
        UserError: a file is wrong, or the dataset has no such split.
    """
    if config.recommendations is not None:
        return list(_of_lists(config, report))
    put = placement("data" if config.candidates is None else "none")
    with put.active():
        opened = open_model(config, put)
        recipe = opened.config.recipe
        ranker = make_ranker(
            recipe.seq_len, opened.dtype, put, opened.tokens, opened.prefix
        )
        found = []
        for dataset, split, cut in _targets(config, opened.dataset):
            if config.candidates is None:
                one = _on_catalog(config, opened, dataset, split, ranker, put)
            else:
                one = _among_candidates(config, opened, dataset, split, ranker, report)
            variation = Variation(
                request_time=opened.model.config.request_time,
                candidates=config.candidates,
                cut_time=cut,
            )
            found.append(one(variation=variation, step=opened.step))
    return found


def result_of(
    one: Evaluated, config: EvaluateConfig, report: Callable[[str], None]
) -> dict[str, Any]:
    """Returns the result of an evaluation, with baselines and what flags add.

    Args:
        one: from `evaluations`.
        config: the flags.
        report: receives messages about what takes long.
    """
    result = full_result(
        one.dataset, one.split, one.metrics, one.step, one.validated, report,
        one.variation, one.ranks_of,
    )  # fmt: skip
    if one.found is not None:
        names = config.metric_names
        result = with_list_metrics(result, one.dataset, one.split, one.found, names)
    cut, cold = one.variation.cut_time, config.cold_history
    if cut is not None:
        result, cold = {**result, "split": "temporal"}, cold or COLD_HISTORY
    if cold is not None:
        groups = metrics_by_history(
            one.dataset, one.split, one.ranked, one.counted(report), cold
        )
        if cut is not None:
            groups["new"] = new_user_metrics(one.dataset, new_users(one.dataset, cut))
        result["by_history"] = groups
    return result


def _targets(
    config: EvaluateConfig, dataset: Dataset
) -> Iterator[tuple[Dataset, Split, int | None]]:
    """The dataset with each set of targets, the split that has them, the cut time."""
    if config.split != "temporal":
        yield of_some_users(dataset, config.eval_users), config.split, None
        return
    for cut in cut_times(dataset, config.cut_times):
        yield of_some_users(at_cut(dataset, cut), config.eval_users), "test", cut


def _on_catalog(
    config: EvaluateConfig,
    opened: Opened,
    dataset: Dataset,
    split: Split,
    ranker: Ranker,
    put: Placement,
) -> "partial[Evaluated]":
    found, model = None, opened.model
    if config.metric_names:
        found = pass_over_users(model, dataset, split, ranker, make_lister(put))
        ranked = found.ranked
    else:
        ranked = rank_users(model, dataset, split, ranker)
    metrics = evaluation(model, split, ranked)
    validated = None if config.split == "temporal" else opened.validated
    return partial(
        Evaluated, dataset, split, ranked, metrics, validated=validated, found=found
    )


def _among_candidates(
    config: EvaluateConfig,
    opened: Opened,
    dataset: Dataset,
    split: Split,
    ranker: Ranker,
    report: Callable[[str], None],
) -> "partial[Evaluated]":
    assert config.candidates is not None
    lists = read_lists(config.candidates, dataset)
    for note in candidate_notes(lists, dataset, split):
        report(note)
    listed = with_candidates(dataset, lists, split)
    ranked = model_candidate_ranks(opened.model, listed, split, ranker, lists)
    metrics = evaluation(opened.model, split, ranked)
    ranks_of = partial(_baseline_among_candidates, lists)
    return partial(Evaluated, listed, split, ranked, metrics, ranks_of=ranks_of)


def _of_lists(
    config: EvaluateConfig, report: Callable[[str], None]
) -> Iterator[Evaluated]:
    assert config.recommendations is not None and config.data_dir is not None
    folder = open_dataset(config.data_dir)
    lists = read_lists(config.recommendations, folder)
    for dataset, split, cut in _targets(config, folder):
        ranked = ranks_in_lists(lists, dataset, split)
        metrics = evaluate_lists(lists, dataset, split, ranked)
        for note in lists_notes(metrics):
            report(note)
        found = None
        if config.metric_names:
            found = lists_as_pass(lists, dataset, split, ranked)
        variation = Variation(lists=lists.path, cut_time=cut)
        yield Evaluated(dataset, split, ranked, metrics, variation, found=found)


def _baseline_among_candidates(
    lists: GivenLists,
    name: str,
    wanted: Sequence[tuple[Dataset, Split]],
    report: Callable[[str], None],
) -> list[Float[np.ndarray, "user 2"]]:
    """As `baseline_ranks`, among candidates and without a cache."""
    scorer = BASELINES[name].scorer(wanted[0][0])
    return [
        baseline_candidate_ranks(scorer, dataset, split, lists)
        for dataset, split in wanted
    ]
