"""The result of a run: its best checkpoint, evaluated on the split of its flags."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqids.cli import say, waiting, warn
from eqids.config import Continued
from eqids.data import Dataset
from eqids.fit.evaluation import of_some_users
from eqids.fit.results import RESULT_FILE, Validated, Variation, full_result, table
from eqids.fit.run import Run
from eqids.io.atomic import write_json
from eqids.runs.messages import next_command
from sharding import barrier, is_first


@dataclass(frozen=True)
class TrainedRun:
    """What training left, as `eqids.train` returns it."""

    checkpoint_dir: Path
    """The folder of the run: `eqids.load` opens its best step."""
    step: int
    """The last step, which is saved."""
    finished: bool
    """Whether the run has ended, and not only stopped at `stop_at`."""
    result: Mapping[str, Any] | None
    """The content of `result.json`: metrics of the best step beside the baselines';
    None if the run has not ended, or in another process than the first."""


def report_best(run: Run, dataset: Dataset) -> dict[str, Any] | None:
    """Prints and writes the result of a run; all processes call it.

    Args:
        run: the run, whose last step is saved.
        dataset: the run's dataset, with all users.

    Returns:
        The result, in the first process; None in others.

    Raises:
        UserError: all steps are damaged.
    """
    with waiting("restoring the best step"):
        step, params = run.checkpoints.restore_best(warn)
    flags, continues = run.config.flags, run.config.continues
    split, users = flags.result_split, of_some_users(dataset, flags.test_users)
    metrics, result = run.evaluate(params, split, users), None
    if is_first():
        folder = run.checkpoints.saver.directory
        score = run.checkpoints.score(step)
        validated = None if score is None else Validated(run.dataset, score)
        variation = Variation(request_time=flags.request_time)
        result = full_result(users, split, metrics, step, validated, say, variation)
        write_json(folder / RESULT_FILE, result)
        say(table(result))
        if continues is not None and score is not None:
            say(_change(continues, score))
        say(next_command(folder, dataset))
    barrier("the result is written")
    return result


def _change(continues: Continued, score: float) -> str:
    before = continues.score
    was = "not measured" if before is None else f"{before:.4f}"
    return (
        f"NDCG@10 on validation, the same users: {score:.4f}; it was {was} with "
        f"{continues.checkpoint}"
    )
