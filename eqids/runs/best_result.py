"""The result of a run: its best checkpoint, evaluated on the test split."""

from eqids.cli import say, warn
from eqids.data import Dataset
from eqids.fit.evaluation import of_some_users
from eqids.fit.results import RESULT_FILE, full_result, table
from eqids.fit.run import Run
from eqids.io.atomic import write_json
from eqids.runs.messages import next_command
from sharding import barrier, is_first


def report_best(run: Run, dataset: Dataset) -> None:
    """Prints and writes the result of a run; all processes call it.

    Args:
        run: the run, whose last step is saved.
        dataset: the run's dataset, with all users.

    Raises:
        UserError: all steps are damaged.
    """
    step, params = run.checkpoints.restore_best(warn)
    tested = of_some_users(dataset, run.config.flags.test_users)
    metrics = run.evaluate(params, "test", tested)
    if is_first():
        folder = run.checkpoints.saver.directory
        result = full_result(tested, "test", metrics, step)
        write_json(folder / RESULT_FILE, result)
        say(table(result))
        say(next_command(folder, dataset))
    barrier("the result is written")
