"""Check an installation: `python -m eqids.doctor`."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from eqids.cli import (
    check_output,
    loading,
    parse,
    run_as_process,
    say_above_bars,
    waiting,
)
from eqids.config import DoctorConfig
from eqids.io.atomic import write_json

if TYPE_CHECKING:
    from eqids.diagnosis.findings import Finding

DESCRIPTION = """Check that this machine and this installation can train.

Each line is a verdict: ok; note, for what could be better; or mend, for what will not
work, with the command that mends it. The last check trains a small model for ten
seconds. The command exits with 1 if something is to mend:

    python -m eqids.doctor
    python -m eqids.doctor --seconds 0 --json doctor.json
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a verdict for each check."""
    config = parse(DoctorConfig, argv, "eqids.doctor", DESCRIPTION)
    check_output(config.json, "--json")
    # Imported here: --help and a mistyped flag do not wait for jax.
    from eqids.diagnosis.findings import conclusion

    found = []
    for finding in _findings(config):
        say_above_bars(finding.text())
        found.append(finding)
    say_above_bars(conclusion(found))
    if config.json is not None:
        write_json(config.json, {"findings": [asdict(one) for one in found]})
    if any(finding.verdict == "mend" for finding in found):
        sys.exit(1)


def _findings(config: DoctorConfig) -> Iterator["Finding"]:
    with loading():
        from eqids.diagnosis import installed_packages, machine_checks

    yield from installed_packages.check_packages()
    yield from machine_checks.check_devices()
    yield machine_checks.check_memory()
    yield machine_checks.check_threads()
    yield machine_checks.check_cache()
    yield machine_checks.check_here()
    yield machine_checks.check_hub(config.online)
    if config.seconds:
        yield _training(config.seconds)


def _training(seconds: float) -> "Finding":
    from eqids.diagnosis.findings import Finding
    from eqids.diagnosis.short_training import check_training

    what = f"training a small model for {seconds:g} s, after compiling it"
    try:
        with tempfile.TemporaryDirectory(prefix="eqids-") as folder, waiting(what):
            return check_training(Path(folder), seconds)
    except Exception as error:  # the findings so far are still worth printing
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Finding("training", "mend", said, "see docs/troubleshooting.md")


if __name__ == "__main__":
    run_as_process(main)
