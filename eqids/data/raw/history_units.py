"""The unit of the times of histories that are given to a trained model."""

from collections.abc import Callable

from eqids.config import TimeUnit
from eqids.data.dataset import Dataset
from eqids.data.raw.times import (
    SECONDS,
    YEAR_1971,
    YEAR_2100,
    UnitAdvice,
    settle_unit,
)

WITHOUT_TIMES = {
    "time": ", or drop the column 'time' to go by the order of rows",
    "request_time": ", or drop the column 'request_time' to ask now",
}
"""What else to do about missing times, by column."""

_ADVICE = UnitAdvice(
    dates="wanted text like 2024-05-01",
    implausible="wanted unix seconds, or dates such as 2024-05-01",
    ranks="if they are ranks, leave the column out and put the rows in order, else "
    "give unix seconds or dates",
    overrule="; unix seconds and dates are taken as they are",
)


def unit_of_histories(
    column: str,
    least: int | float,
    most: int | float,
    form: str | None,
    dataset: Dataset,
    report: Callable[[str], None],
) -> TimeUnit:
    """Returns the unit of the dataset's source for small numbers, otherwise a guess.

    Args:
        column: names the column in messages.
        least: the smallest of the numbers.
        most: the largest of them.
        form: see `settle_unit`.
        dataset: of the trained model.
        report: receives the unit, unless it is seconds.

    Raises:
        UserError: see `settle_unit`.
    """
    own = dataset.info.time_unit or "seconds"
    if most < YEAR_1971 and _is_own(least, most, own, dataset):
        if own != "seconds":
            report(
                f"{column} holds numbers from {least} to {most}, which are taken as "
                f"{own}: the dataset was made of such times"
            )
        return own
    return settle_unit(column, least, most, form, report, _ADVICE)


def _is_own(
    least: int | float, most: int | float, own: TimeUnit, dataset: Dataset
) -> bool:
    """Whether small numbers are plausible in the unit of the dataset."""
    if own != "seconds":
        return most * SECONDS[own] < YEAR_2100
    # The dataset may hold small numbers too, such as ranks.
    times = dataset.times
    if times is None:
        return False
    return bool(least <= times.max() and times.min() <= most)
