"""Random tables for `prepare`, legal and not, beside what pandas reads of them.

    python tests/fuzz_prepare.py --minutes 10

Each case ends in a dataset that holds what an independent script reads, or in one
sentence; a legal case has to end in a dataset. A failure prints its seed, and
`--seed` runs that one again.
"""

import argparse
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz_cases import Case, make_case
from fuzz_reader import Refused, expected

from eqids.config import PrepareConfig, UserError
from eqids.data import Dataset
from eqids.data.preparation import prepare


def found(dataset: Dataset) -> dict[Any, list[tuple[Any, int | None]]]:
    """The histories of a dataset: by user (item, second), in order."""
    names = dict(dataset.items()[["slot", "item"]].itertuples(index=False))
    out = {}
    for row, user in enumerate(dataset.users()["user"]):
        span = slice(dataset.offsets[row], dataset.offsets[row + 1])
        times: Sequence[Any] = [None] * (span.stop - span.start)
        if dataset.times is not None:
            times = dataset.times[span].tolist()
        items = [names[slot] for slot in dataset.slots[span]]
        out[user] = list(zip(items, times, strict=True))
    return out


def check(case: Case, folder: Path) -> str:
    """Runs a case; returns how it ended.

    Raises:
        AssertionError: it ended wrongly.
    """
    path = folder / case.file_name
    path.write_bytes(case.content)
    config = PrepareConfig(
        source=f"{case.kind}:{path}",
        data_dir=folder / "out",
        user_column=case.columns["user"],
        item_column=case.columns["item"],
        time_column=case.columns.get("time"),
        order_column=case.columns.get("order"),
        missing=case.missing,  # type: ignore[arg-type]
    )
    try:
        wanted = expected(case)
    except Refused as refused:
        wanted, why = None, str(refused)
    try:
        dataset = prepare(config, lambda _: None)
    except UserError as error:
        said = str(error)
        assert not (folder / "out").exists(), "something is half-written"
        assert "\n" not in said and len(said) < 1500, f"no sentence: {said[:300]!r}"
        assert wanted is None or not case.legal, f"refused: {said}"
        return "refused"
    assert wanted is not None, f"a dataset, and pandas refused: {why}"
    ours = found(dataset)
    hashed = dataset.info.protocol.ties == "seeded_hash"
    theirs = {
        user: [(item, second) for item, second, _ in events]
        for user, events in wanted.items()
    }
    if hashed:
        # Ties have another order than the file's; what is tied is the same.
        ours, theirs = (
            {u: sorted(e, key=lambda x: (x[1] or 0, str(x[0]))) for u, e in h.items()}
            for h in (ours, theirs)
        )
    assert ours == theirs, f"{ours} is not {theirs}"
    return "dataset, ties hashed" if hashed else "dataset"


def run(seeds: Sequence[int], until: float = float("inf")) -> Counter[str]:
    """Runs cases until a time; returns how many ended how."""
    ends: Counter[str] = Counter()
    for seed in seeds:
        if time.monotonic() > until:
            break
        case = make_case(random.Random(seed))
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                end = check(case, Path(folder))
            except Exception as error:
                error.add_note(
                    f"seed {seed}: {case.kind} {case.columns} {case.missing} legal "
                    f"{case.legal} {case.notes}\n{case.content[:600]!r}"
                )
                raise
        ends[f"{'legal' if case.legal else 'damaged'}: {end}"] += 1
    return ends


def main() -> None:
    """Runs cases for some minutes, or one by its seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    args = parser.parse_args()
    seeds = range(args.first, args.first + 10**9)
    if args.seed is not None:
        seeds = range(args.seed, args.seed + 1)
    ends = run(seeds, time.monotonic() + 60 * args.minutes)
    print(f"{ends.total():,} cases")
    for end, number in sorted(ends.items()):
        print(f"  {number:>6,}  {end}")


if __name__ == "__main__":
    main()
