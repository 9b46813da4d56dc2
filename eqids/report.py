"""Report: `python -m eqids.report`."""

from collections.abc import Sequence

from eqids.cli import check_output, loading, parse, run_as_process, say
from eqids.config import ReportConfig, require

DESCRIPTION = """Draw a report of one run, or of several beside each other.

It is one HTML file that needs nothing else: loss and validation, metrics at K beside
baselines with intervals over users, for which users it works, calibration of the
probabilities, what is recommended, a map of the catalog, example users, and the
protocol. For example:

    python -m eqids.report runs/ml-100k-nano-all-seed0
    python -m eqids.report runs/first runs/second --output both.html
    python -m eqids.report runs/mine --user_columns users.csv --examples 50

A run is evaluated once, and the result kept in the cache ($EQIDS_CACHE or
~/.cache/eqids), so that the next report takes seconds.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluates what has not been evaluated yet, and writes the page."""
    config = parse(ReportConfig, argv, "eqids.report", DESCRIPTION, positional=True)
    check_output(config.output, "--output")
    for path in config.run:
        require(
            path.is_dir(),
            f"{path}: no such folder, wanted a run's DIR or a checkpoint DIR/STEP",
        )
    # Imported here: --help and a mistyped flag do not wait for jax.
    with loading():
        from eqids.reporting.report_data import report_data
        from eqids.reporting.report_page import write_report

    size = write_report(report_data(config, say), config.output)
    say(f"written to {config.output} ({size / 1e6:.1f} MB): open it in a browser")


if __name__ == "__main__":
    run_as_process(main)
