"""The whole sweeps of kills and corruptions, as a page: docs/reliability.md.

    python tests/sweep_checkpoints.py --output docs/reliability.md

It takes about twenty minutes on two CPU cores; tests/test_sweeps.py does a part of it.
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

What a run and its checkpoints have survived, counted by

```
{command}
```

on 2 CPU cores, in {minutes:.0f} minutes. `tests/test_sweeps.py` repeats a part of it
with another seed every time.

## Kills

A run of tiny sizes, which saves every {save_every} steps, is killed with SIGKILL,
started again, killed again, and so on. Some kills wait for a save and strike within
50 ms, more at any moment behind the first save, and a few while the run starts, before
it has saved anything.
Each kill counts as survived when every numbered folder is sound (`verify`), no more
steps are lost than two saves apart (one due, one under way), and the next start takes
the newest step without a word of damage. After all of them every line of metrics ever
logged and every array of the last checkpoint must be those of a run that nobody
killed, to the bit.

{kills}

The most steps that a kill has cost were {lost}. A killed process leaves its writes with
the operating system: what a power cut does to a disk's own cache is not measured here
(files and folders are synced before a step gets its name).

## Corruptions

One thing at a time is wrong in a checkpoint of a run that was cut into several parts.
It counts as noticed when `verify` and `restore` both refuse, naming step and array or
file. OCDBT's data files hold nodes (its index) and chunks of values. What comes from
another step is the same file of a sound checkpoint, of the same size almost always.

{corruptions}

From {resumed} of these, all of the newest step, the run was resumed: each time it said
what is damaged, set the step aside as `STEP.damaged`, went on from the step before, and
ended with the losses and weights of a run that met no damage, to the bit.
"""


@dataclass(frozen=True)
class Sweeps:
    """How much is swept."""

    kills: int = 100
    """Of a run in one process."""
    kills_of_two: int = 10
    """Of a run in two processes, where both are killed within a second."""
    corruptions: int = 1000
    """Of its checkpoints."""
    resumed: int = 50
    """Corruptions that a run is resumed from."""
    seed: int = 0
    """Of moments and places."""
    output: Path | None = None
    """The page; by default it is printed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Sweeps and writes the page."""
    flags = tyro.cli(Sweeps, args=argv, description=__doc__, use_underscores=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        data, folders = Path(name) / "data", [Path(name) / x for x in "123"]
        make_dataset(data)
        for folder in folders:
            folder.mkdir()
        corruptions = corruption_sweep(
            data, folders[0], flags.corruptions, flags.resumed, flags.seed, tell=say
        )
        kills = {"one": kill_sweep(data, folders[1], flags.kills, flags.seed, tell=say)}
        if flags.kills_of_two:
            kills["two"] = kill_sweep(
                data, folders[2], flags.kills_of_two, flags.seed, num_processes=2,
                tell=say,
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
    """The page, as Markdown.

    Args:
        flags: what was asked for.
        kills: by the number of processes, in words; all survived.
        corruptions: all noticed.
        minutes: how long it took.
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
    rows.append(("**together**", "", f"**{total} of {total}**"))
    counts = Counter((row.kind, row.damage) for row in corruptions)
    found = [
        (kind, damage, f"{counts[kind, damage]} of {counts[kind, damage]}")
        for kind, damage in CASES
        if counts[kind, damage]
    ]
    total = len(corruptions)
    found.append(("**together**", "", f"**{total} of {total}**"))
    return PAGE.format(
        command=command,
        minutes=minutes,
        save_every=SAVE_EVERY,
        kills=_table(("processes", "killed", "survived"), rows),
        lost=max(kill.lost for row in kills.values() for kill in row),
        corruptions=_table(("file", "damage", "noticed"), found),
        resumed=sum(row.resumed for row in corruptions),
    )


def say(text: str) -> None:
    print(text, flush=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
