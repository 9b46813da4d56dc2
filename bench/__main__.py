"""Measure EqIDs beside its peers: `python -m bench SECTION`."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from bench.gpu.gpu_options import GpuOptions
from bench.machine import busy_cores, pin, use_huge_pages
from bench.options import AllOptions, CompareOptions, Options
from bench.plot import check_plotting, save
from bench.quality_options import QualityOptions
from bench.sections import OTHER_COMMANDS, SECTIONS
from eqids.cli import parse_command, run_as_process, say, warn
from eqids.config import require
from eqids.io.atomic import write_json

DESCRIPTION = """Measure EqIDs beside its peers, in one run, on this machine.

    python -m bench all --quick
    python -m bench train --json train.json
    python -m bench train --llama_size nano --train heads all --batch_size 16 64
    python -m bench head --json head.json --plot head.png
    python -m bench topk --checkpoint runs/mine
    python -m bench checkpoint --size 2 --folder /scratch
    python -m bench quality --seeds 0 1 2 --setting 'wide=--item_width 128'
    python -m bench gpu --minutes 25 --json gpu.json
    python -m bench compare before.json after.json

Peers that are not installed are left out, with a note: pip install 'eqids[peers]'.
"""

_BUSY = 0.3
"""Number of cores at work for others above which times are not to be trusted."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints tables, or compares two results."""
    commands: dict[str, Any] = {name: one.options for name, one in SECTIONS.items()}
    commands |= OTHER_COMMANDS
    options: Any = parse_command(commands, argv, "bench", DESCRIPTION, positional=True)
    if isinstance(options, CompareOptions):
        _compare(options)
    elif isinstance(options, AllOptions):
        _measure_all(options)
    elif isinstance(options, QualityOptions):
        _quality(options, sys.argv[1:] if argv is None else argv)
    elif isinstance(options, GpuOptions):
        _gpu(options)
    else:
        _measure(options)


def _measure(options: Options) -> None:
    (entry,) = (one for one in SECTIONS.values() if one.options is type(options))
    if options.plot is not None:
        check_plotting()
    busy = busy_cores()
    if busy is not None and busy > _BUSY:
        warn(
            f"other processes keep {busy:.1f} cores busy: times and ratios will be off"
        )
    # Before jax is imported, which starts a thread for each core it sees.
    pin(options.cores)
    if options.huge_pages:
        use_huge_pages()
    from bench.result_tables import result, table

    section = importlib.import_module(entry.module).measure(options)
    print(table(section))
    if options.json is not None:
        write_json(options.json, result(section, options, busy))
        print(f"written to {options.json}")
    if options.plot is not None:
        save(section.curve, options.plot)
        print(f"drawn into {options.plot}")


def _measure_all(options: AllOptions) -> None:
    from bench.everything import measure_all

    whole, failed = measure_all(options, SECTIONS)
    if options.json is not None:
        write_json(options.json, whole)
        print(f"written to {options.json}")
    require(
        not failed,
        f"bench {', '.join(failed)} ended with an error, see above; the other sections "
        "are measured",
    )


def _quality(options: QualityOptions, words: Sequence[str]) -> None:
    if options.plot is not None:
        check_plotting()
    pin(options.cores)
    from bench.model_quality import measure_quality
    from bench.quality_markdown import check_markdown, markdown, write_markdown
    from bench.quality_plot import draw_quality
    from bench.quality_result import quality_json

    check_markdown(options.output)
    found = measure_quality(options)
    if found.tables:
        text = markdown(found.tables, found.settings, words)
        say(text)
        if options.json is not None:
            write_json(options.json, quality_json(found.tables, options))
        if options.output is not None:
            write_markdown(options.output, text)
        if options.plot is not None:
            draw_quality(found.tables, options.plot)
        for path in filter(None, (options.json, options.output, options.plot)):
            say(f"written to {path}")
    if found.left:
        say(
            f"--minutes are over, and {len(found.left)} runs were not started; the "
            f"same command goes on with {found.left[0]}"
        )
    require(
        not found.failed, f"{len(found.failed)} runs ended with an error, see above"
    )


def _gpu(options: GpuOptions) -> None:
    from bench.gpu.gpu_tables import part_text
    from bench.gpu.run_parts import measure_parts

    whole = measure_parts(options, lambda name, result: say(part_text(name, result)))
    if options.json is not None:
        say(f"written to {options.json}")
    parts = whole["gpu"]["parts"].items()
    failed = [name for name, one in parts if one["status"] in ("failed", "stopped")]
    require(
        not failed,
        f"{', '.join(failed)} ended with an error, see above; the other parts did not",
    )


def _compare(options: CompareOptions) -> None:
    from bench.compare import REGRESSION, compare, text

    changes, notes = compare(options.before, options.after)
    print(text(changes, notes))
    if any(change.verdict == REGRESSION for change in changes):
        sys.exit(1)


if __name__ == "__main__":
    run_as_process(main)
