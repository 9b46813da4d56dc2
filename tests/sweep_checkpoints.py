"""Sweeps of kills and corruptions, written as a page: docs/reliability.md.

    python tests/sweep_checkpoints.py --output docs/reliability.md

This takes about thirty minutes on two CPU cores; tests/test_sweeps.py does a part.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from conftest import make_dataset
from corruptions import CASES, Corruption, corruption_sweep
from kills import SAVE_EVERY, Kill, kill_sweep

PAGE = """# Kills and corruptions

What runs and checkpoints have survived, as counted by

```
{command}
```

on 2 CPU cores, in {minutes:.0f} minutes. `tests/test_sweeps.py` repeats a part of it
with a new seed every time.

## Kills

A small run saves every {save_every} steps. It is killed with SIGKILL, started again and
killed again. Some kills come within 50 ms of the beginning of a save, most at a random
moment after the first save, and a few during the start, before anything is saved. A
kill counts as survived if

- every numbered folder passes `verify`,
- at most the steps of two saves are lost (one was due, one was being written), and
- the next start resumes from the newest step and reports no damage.

After all kills, every logged line of metrics and every array of the last checkpoint
must equal, to the bit, those of a run that was never killed.

{kills}

A kill cost at most {lost} steps. The writes of a killed process stay with the operating
system, so the effect of a power cut on a disk's cache is not measured here (files and
folders are synced before a step gets its name).

## Corruptions

Each case damages one thing in a checkpoint whose arrays are stored in several parts,
and are read partly with tensorstore and partly without. It counts as detected if both
`verify` and `restore` refuse the checkpoint and name the step and the array or file.
OCDBT's data files hold nodes (its index) and chunks of
values. "another step's" means that the file was replaced by the same file of another
checkpoint, which nearly always has the same size.

{corruptions}

In {resumed} of these cases the newest step was damaged and the run resumed. Each time
it reported the damage, renamed the step to `STEP.damaged`, resumed from the step
before, and ended with the losses and weights of an undamaged run, to the bit.
"""


@dataclass(frozen=True)
class Sweeps:
    """The size of the sweeps."""

    kills: int = 100
    """Kills of a run in one process."""
    kills_of_two: int = 10
    """Kills of a run in two processes, both within a second."""
    corruptions: int = 1000
    """Corruptions of a run's checkpoints."""
    resumed: int = 50
    """How many of the corruptions a run is resumed from."""
    seed: int = 0
    """The seed of moments and bytes."""
    output: Path | None = None
    """The file to write; by default the page is printed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the sweeps and writes the page."""
    flags = tyro.cli(Sweeps, args=argv, description=__doc__, use_underscores=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        data, folders = Path(name) / "data", [Path(name) / x for x in "123"]
        make_dataset(data)
        for folder in folders:
            folder.mkdir()
        corruptions = corruption_sweep(
            data, folders[0], flags.corruptions, flags.resumed, flags.seed, report=say
        )
        kills = {
            "one": kill_sweep(data, folders[1], flags.kills, flags.seed, report=say)
        }
        if flags.kills_of_two:
            kills["two"] = kill_sweep(
                data, folders[2], flags.kills_of_two, flags.seed, num_processes=2,
                report=say,
            )  # fmt: skip
    minutes = (time.monotonic() - started) / 60
    text = page(flags, kills, corruptions, minutes)
    if flags.output is None:
        print(text)
    else:
        flags.output.write_text(text, encoding="utf-8")


def page(
    flags: Sweeps,
    kills: Mapping[str, Sequence[Kill]],
    corruptions: Sequence[Corruption],
    minutes: float,
) -> str:
    """Returns the page, as Markdown.

    Args:
        flags: the size of the sweeps.
        kills: by the number of processes, in words; all survived.
        corruptions: all noticed.
        minutes: how long the sweeps took.
    """
    command = (
        f"python tests/sweep_checkpoints.py --seed {flags.seed} --kills {flags.kills} "
        f"\\\n    --kills_of_two {flags.kills_of_two} --corruptions "
        f"{flags.corruptions} --resumed {flags.resumed}"
    )
    rows: list[Sequence[str]] = [
        (processes, moment, f"{num} of {num}")
        for processes, row in kills.items()
        for moment, num in Counter(kill.moment for kill in row).most_common()
    ]
    total = sum(len(row) for row in kills.values())
    rows.append(("**total**", "", f"**{total} of {total}**"))
    counts = Counter((row.kind, row.damage) for row in corruptions)
    found = [
        (kind, damage, f"{counts[kind, damage]} of {counts[kind, damage]}")
        for kind, damage in CASES
        if counts[kind, damage]
    ]
    total = len(corruptions)
    found.append(("**total**", "", f"**{total} of {total}**"))
    return PAGE.format(
        command=command,
        minutes=minutes,
        save_every=SAVE_EVERY,
        kills=_table(("processes", "killed", "survived"), rows),
        lost=max(kill.lost for row in kills.values() for kill in row),
        corruptions=_table(("file", "damage", "detected"), found),
        resumed=sum(row.resumed for row in corruptions),
    )


def say(text: str) -> None:
    print(text, flush=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
