"""What a run of the quality bench is made of: data, setting, seed and code."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from quality_records import OTHER, WIDE, record

from bench.code_digest import digest_of_code
from bench.quality_data import data_sources, dataset_folder
from bench.quality_options import QualityOptions
from bench.quality_runs import QualityRun
from bench.quality_settings import Setting
from eqids import prepare
from eqids.config import UserError
from eqids.data import open_dataset
from eqids.io.atomic import write_json


def written(folder: Path, kind: str) -> dict[str, str]:
    """Writes three events of one user, out of order, and returns the bench's flags."""
    import pandas as pd

    folder.mkdir()
    columns = {"user": ["u"] * 3, "item": ["c", "a", "b"], "order": [2, 0, 1]}
    events = pd.DataFrame(columns).assign(timestamp=978300760)
    titles = {"item": ["a", "b", "c"], "title": ["A", "B", "C"]}
    items = pd.DataFrame(titles).assign(brand="x", categories="y", year=1, genres="z")
    for name, table in (("interactions", events), ("items", items)):
        if kind == "beauty":
            table.to_parquet(folder / f"{name}.parquet")
        else:
            table.to_csv(folder / f"{name}.csv", index=False)
    return {"beauty" if kind == "beauty" else "ml_1m": str(folder)}


@pytest.mark.parametrize(
    "kind, text, timed",
    [("beauty", "A, x, y", False), ("ml-1m", "A (1), z", True)],
)
def test_data_sets_are_prepared_once_in_the_order_of_their_column(
    kind: str, text: str, timed: bool, tmp_path: Path
) -> None:
    calls = []

    def run(module: str, words: Sequence[str], log: Path) -> int:
        calls.append(module)
        prepare.main(words)
        return 0

    paths = {n: Path(p) for n, p in written(tmp_path / "raw", kind).items()}
    (source,) = data_sources(QualityOptions(data=(kind,), **paths))
    folders = [
        dataset_folder(source, setting, tmp_path / "data", run)
        for setting in (
            Setting("a"),
            Setting("b"),
            Setting("c", prepare={kind: ("--num_clusters", "1")}),
        )
    ]
    assert calls == ["eqids.prepare"] * 2 and folders[0] == folders[1] != folders[2]
    dataset = open_dataset(folders[0])
    items = dataset.items().set_index("slot")
    history = items.loc[dataset.history(0).tolist()]
    assert history["item"].tolist() == ["a", "b", "c"]
    assert history["text"].iloc[0] == text
    assert (dataset.times is not None) == timed


def test_a_data_set_that_cannot_be_prepared_says_why(tmp_path: Path) -> None:
    (source,) = data_sources(QualityOptions())

    def run(module: str, words: Sequence[str], log: Path) -> int:
        log.parent.mkdir()
        log.write_text("reading\nerror: no connection\n\n")
        return 2

    with pytest.raises(UserError, match="could not be prepared, .*: error: no conn"):
        dataset_folder(source, Setting("a"), tmp_path / "data", run)


def test_a_run_is_the_same_if_all_that_determines_it_is(tmp_path: Path) -> None:
    run = QualityRun("d", tmp_path, "hash", WIDE, 0, tmp_path, "code")
    others = [
        replace(run, dataset_hash="other"), replace(run, setting=OTHER),
        replace(run, seed=1), replace(run, code="other"), replace(run, data="e"),
    ]  # fmt: skip
    assert len({one.path for one in (run, *others)}) == 6
    assert replace(run, data_dir=Path("elsewhere")).path == run.path
    old = replace(run, code="old")
    old.path.mkdir(parents=True)
    made = {**vars(record(dataset_hash="hash", code="old")), "train": [*WIDE.train]}
    write_json(old.path / "run.json", made)
    assert run.record is None and run.of_any_code().record == old.record
    assert replace(run, seed=1).of_any_code().record is None
    assert replace(run, dataset_hash="other").of_any_code().record is None


def test_the_digest_of_code_ignores_what_only_readers_see(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "a.py").write_text(text)
        return digest_of_code([("a.py", tmp_path / "a.py")])

    plain = digest("x = 1\ndef f():\n    return x\n")
    same = (
        '"""Doc."""\nx = 1  # why\n"""Doc."""\n\ndef f():\n    "Doc."\n    return x\n'
    )
    assert digest(same) == plain
    assert digest("x = 2\ndef f():\n    return x\n") != plain
