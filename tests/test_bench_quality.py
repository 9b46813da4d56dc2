"""The quality bench: what it trains, what it keeps, and what its tables say."""

import json
import math
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_dataset
from pytest import CaptureFixture, MonkeyPatch
from runs import refused

from bench import __main__ as command, model_quality
from bench.code_digest import digest_of_code
from bench.logged_command import run_logged
from bench.paired_bootstrap import PairedDifference, paired_bootstrap
from bench.published import PUBLISHED
from bench.quality_data import data_sources, dataset_folder
from bench.quality_markdown import BEGIN, END, markdown, write_markdown
from bench.quality_options import QualityOptions
from bench.quality_plot import draw_quality
from bench.quality_runs import QualityRun, RunRecord
from bench.quality_settings import SETTINGS, Setting
from bench.quality_tables import QualityTable, RankedRun, quality_table
from bench.user_ranks import UserRanks, load_ranks
from eqids import prepare
from eqids.checkpoints import best_step, read_manifest
from eqids.config import Stopped, UserError
from eqids.data import Dataset, open_dataset
from eqids.io.atomic import write_json

RUN = ("--num_steps 3 --batch_size 4 --seq_len 16 --item_width 8 --eval_every 2 "
       "--warmup_steps 1")  # fmt: skip


@pytest.fixture(autouse=True)
def unpinned(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(command, "pin", lambda cores: None)


def test_the_bootstrap_is_the_loop_over_draws_and_users() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(7), rng.random(7)
    found = paired_bootstrap(ours, theirs, seed=5, draws=40)
    drawn, means = np.random.default_rng(5), []
    for _ in range(40):
        users = drawn.integers(0, 7, 7).tolist()
        means.append(sum(ours[user] - theirs[user] for user in users) / 7)
    means.sort()

    def percentile(share: float) -> float:
        at = share * 39
        low = math.floor(at)
        return means[low] + (at - low) * (means[low + 1] - means[low])

    center = sum(means) / 40
    error = math.sqrt(sum((mean - center) ** 2 for mean in means) / 39)
    assert found.mean == pytest.approx(sum(ours - theirs) / 7)
    assert found.low == pytest.approx(percentile(0.025))
    assert found.high == pytest.approx(percentile(0.975))
    assert found.standard_error == pytest.approx(error)


def test_the_bootstrap_has_the_standard_error_of_the_mean() -> None:
    each = np.random.default_rng(0).standard_normal(400)
    found = paired_bootstrap(each, np.zeros(400))
    assert found.standard_error == pytest.approx(each.std() / 20, rel=0.05)
    assert found.high - found.low == pytest.approx(2 * 1.96 * each.std() / 20, rel=0.05)


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--data beauty", "--data beauty needs --beauty DIR, the folder of its "),
        ("--data ml-1m", "--data ml-1m needs --ml_1m DIR, the folder of its "),
        ("--data beauty --beauty TMP", "there is no interactions.parquet in it"),
        ("--data ml-1m --ml_1m TMP", "there is no interactions.csv in it"),
        ("--data books", "--data has 'books', wanted some of ml-100k, beauty, ml-1m"),
        ("--prepared mine=TMP", "TMP is not a dataset folder, see python -m"),
        ("--prepared mine", "--prepared is 'mine', wanted NAME=DIR"),
        ("--prepared beauty=TMP", "beauty is a data set that the bench prepares"),
        ("--settings best", "--settings has 'best', wanted some of default, text"),
        ("--settings frozen", "--settings frozen needs --llama_path DIR"),
        ("--settings text", "--settings text needs --text_llama_path DIR"),
        ("--setting wide", "--setting is 'wide', wanted NAME=FLAGS"),
        ("--setting a=--wide", "setting a: --wide is not a flag of python -m eqids"),
        ("--setting a=--seed=1", "setting a: --seed is given twice (0, 1)"),
        ("--setting a= a=", "two settings are called 'a'"),
        ("--settings default --setting default=", "two settings are called 'default'"),
        ("--against a", "--against is 'a', wanted a setting: default"),
        ("--against default", "--against default needs another setting beside it"),
        ("--seeds 1 1", "--seeds is 1 1, wanted each once"),
        ("--splits", "--splits is empty, wanted valid, test or both"),
        ("--output TMP/kept.md", "kept.md exists without the lines <!-- python"),
    ],
)
def test_mistakes_are_answered_before_anything_runs(
    flags: str,
    said: str,
    tmp_path: Path,
    capsys: CaptureFixture[str],
    monkeypatch: MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_quality, "run_logged", None)
    (tmp_path / "kept.md").write_text("mine")
    words = flags.replace("TMP", str(tmp_path)).split()
    found = refused(command.main, ["quality", *words], capsys)
    assert said.replace("TMP", str(tmp_path)) in found
    assert (tmp_path / "kept.md").read_text() == "mine"


def test_named_settings_and_published_figures_keep_request_time_apart() -> None:
    assert [one.name for one in SETTINGS.values() if one.request_time] == [
        "request-time"
    ]
    assert Setting("x", ("--request-time",)).request_time
    for one in PUBLISHED:
        assert one.request_time == ("time" in one.model)
        assert 0 < one.metrics["ndcg@10"] < one.metrics["recall@10"] < 1
        assert one.source


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


def ranks(*filtered: float) -> UserRanks:
    values = np.array(filtered)
    users = np.arange(len(values))
    return UserRanks(users, values, values + 1, np.full(len(values), 2.0))


def record(**changes: Any) -> RunRecord:
    return replace(
        RunRecord(
            train=("--item_width", "8"), seed=0, dataset_hash="d", code="c",
            commit=None, seconds=90.0, busy_cores=0.1, steps=10, best_step=5,
            parameters=12345, cpu="a CPU", cores=2, versions=("jax 1",),
        ),
        **changes,
    )  # fmt: skip


WIDE = Setting("wide", ("--item_width", "8"), "wider")
OTHER = Setting("other")


def small_table() -> QualityTable:
    runs = [
        RankedRun(WIDE, record(), ranks(1, 3, math.inf, 60)),
        RankedRun(WIDE, record(seed=1, code="e"), ranks(1, 1, math.inf, 60)),
        RankedRun(OTHER, record(busy_cores=1.25, seconds=None), ranks(7, 1, 20, 60)),
    ]
    counted = {"popularity": ranks(3, 3, 3, 60), "Markov": ranks(1, 1, 3, 60)}
    return quality_table("beauty", "valid", runs, counted, "other")


def test_a_table_is_what_the_ranks_say() -> None:
    """By hand: NDCG is 1 at rank 1, 1/2 at 3, 1/3 at 7, 1 / log2(21) = .2277 at 20."""
    table = small_table()
    text = markdown([table], {"wide": WIDE, "other": OTHER}, ["quality", "/a/b"])
    lines = text.splitlines()
    assert lines[0] == "Measured by `python -m bench quality b`."
    start = lines.index("### beauty, valid split")
    assert lines[start + 2].startswith("4 users, full catalog, seen items filtered")
    names = "|  | seeds | Recall@10 | NDCG@10 | MRR@10 | Recall@50 | NDCG@50 | MRR@50"
    assert lines[start + 4] == f"{names} | minutes | parameters |"
    assert lines[start + 6 : start + 10] == [
        "| popularity |  | .7500 | .3750 | .2500 | .7500 | .3750 | .2500 |  |  |",
        "| Markov |  | .7500 | .6250 | .5833 | .7500 | .6250 | .5833 |  |  |",
        "| **wide** | 2 | .5000 ± .0000 | .4375 ± .0884 | .4167 ± .1179 "
        "| .5000 ± .0000 | .4375 ± .0884 | .4167 ± .1179 | 1.5 | 12,345 |",
        "| other | 1 | .5000 | .3333 | .2857 | .7500 | .3903 | .2982 |  | 12,345 |",
    ]
    assert "- wide: `python -m eqids.train --item_width 8` (wider)" in lines
    assert "The runs are of 2 versions of the code." in text
    assert "Other processes kept up to 1.2 cores busy" in text
    differences = [line.split(" | ") for line in lines if " of " in line[-9:]]
    assert [row[:2] for row in differences] == [
        ["| wide", "Markov"], ["| wide", "other"], ["| other", "Markov"]
    ]  # fmt: skip
    assert differences[0][2].startswith("-.1875 (")
    assert differences[1][2].startswith("+.1042 (")
    assert [row[-1] for row in differences] == ["0 of 2 |", "0 of 2 |", "0 of 1 |"]
    wide = table.settings[0].differences["Markov"]["ndcg@10"]
    assert wide == PairedDifference(
        wide.mean, *np.percentile(drawn_means(), [2.5, 97.5]), wide.standard_error
    )


def drawn_means() -> list[float]:
    """Of wide less Markov: the users' differences are 0, -1/4, -1/2 and 0."""
    each, rng = np.array([0.0, -0.25, -0.5, 0.0]), np.random.default_rng(0)
    return [each[rng.integers(0, 4, 4)].mean() for _ in range(2_000)]


def test_runs_of_other_users_are_refused() -> None:
    runs = [RankedRun(OTHER, record(), one) for one in (ranks(1, 2), ranks(1, 2, 3))]
    with pytest.raises(UserError, match="settings rank different users"):
        quality_table("beauty", "valid", runs, {}, None)


def test_published_figures_are_beside_test_results_only(tmp_path: Path) -> None:
    own = [RankedRun(OTHER, record(), ranks(1, 2))]
    test = quality_table("beauty", "test", own, {}, None)
    text = markdown([test], {"other": OTHER}, [])
    row = "| LlamaRec (7B Llama) |  | .0971 | .0554 |  |  |  |  |  |  | figure of"
    assert row in text
    assert not small_table().published
    timed = [replace(own[0], setting=Setting("t", ("--request_time",)))]
    later = quality_table("ml-1m", "test", timed, {}, None)
    assert [one.metrics["ndcg@10"] for one in later.published] == [0.216]
    draw_quality([small_table(), test, later], tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_keeps_what_is_around_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    write_markdown(path, "first")
    path.write_text(f"# Title\n\n{path.read_text()}\nafter\n", encoding="utf-8")
    write_markdown(path, "second")
    wanted = f"# Title\n\n{BEGIN}\n\nsecond\n\n{END}\n\nafter\n"
    assert path.read_text(encoding="utf-8") == wanted


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


def test_a_signal_to_stop_reaches_the_run_and_waits_for_it(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    (tmp_path / "saves.py").write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log, over = tmp_path / "log", threading.Event()

    def stop() -> None:
        while not over.wait(0.01):
            if log.exists() and "ready" in log.read_text():
                os.kill(os.getpid(), 15)
                return

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(Stopped, match="stopped by SIGTERM; the same command"):
            run_logged("saves", [], log)
    finally:
        over.set()
        thread.join()
    assert log.read_text() == "ready\nsaved\n"


def flags_for(dataset: Dataset, folder: Path, *more: str) -> list[str]:
    return ["quality", "--prepared", f"tiny={dataset.path}", "--seeds", "0", "1",
            "--folder", str(folder), "--json", str(folder.parent / "it.json"),
            *more]  # fmt: skip


def test_what_is_done_is_not_done_again(
    dataset: Dataset,
    finished: Path,
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
    capsys: CaptureFixture[str],
) -> None:
    """With a run that is finished already, in place of training."""
    calls: list[str] = []

    def run(module: str, words: Sequence[str], log: Path) -> int:
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert (module, given["--result_split"]) == ("eqids.train", "valid")
        calls.append(f"{log.parent.name.rpartition('-')[0]}")
        if given.get("--dropout") == "0.7":
            log.write_text("error: it cannot be\n")
            return 2
        shutil.copytree(finished, given["--checkpoint_dir"])
        return 0

    ranked: list[str] = []
    kept: dict[str, Path] = {}

    def here(function: Any, *args: Any) -> None:
        if "c-seed0" in str(args):
            raise UserError("it is damaged")
        ranked.append(function.__name__)
        split = f"{function.__name__} {args[1]}"
        if split in kept:  # all runs are one
            shutil.copy(kept[split], args[-1])
            return
        function(*args)
        kept[split] = args[-1]

    monkeypatch.setattr(model_quality, "run_logged", run)
    monkeypatch.setattr(model_quality, "in_fresh_process", here)
    both = ("--setting", "a=", "b=--dropout .1", "--against", "a")
    words = flags_for(dataset, tmp_path / "runs", *both)
    command.main([*words, "--minutes", "1e-9"])
    assert not calls and "4 runs were not started" in capsys.readouterr().out
    command.main(words)
    assert calls == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]  # seed by seed
    assert ranked == ["rank_run"] * 4 + ["rank_baselines"]
    assert not [*(tmp_path / "runs").rglob("test*.npz")]
    command.main(words)
    assert len(calls) == 4 and len(ranked) == 5
    (table,) = json.loads((tmp_path / "it.json").read_text())["quality"]["tables"]
    step = best_step(finished)
    meta = read_manifest(finished / str(step)).meta
    assert [row["name"] for row in table["settings"]] == ["a", "b"]
    for row in table["settings"]:
        assert row["mean"]["ndcg@10"] == pytest.approx(meta["score"])
        for metrics in row["by_seed"].values():
            assert metrics["ndcg@10"] == pytest.approx(meta["score"])
            assert metrics["nll"] == pytest.approx(meta["validation"]["nll"])
        assert row["deviation"]["ndcg@10"] == pytest.approx(0, abs=1e-12)
    markov = json.loads((finished / "result.json").read_text())["markov"]
    assert table["settings"][1]["differences"]["a"]["ndcg@10"]["mean"] == 0
    command.main([*words, "--splits", "valid", "test"])
    assert len(calls) == 4 and ranked[5:] == ["rank_run"] * 4 + ["rank_baselines"]
    _, table = json.loads((tmp_path / "it.json").read_text())["quality"]["tables"]
    (found,) = (row for row in table["baselines"] if row["name"] == "Markov")
    assert found["mean"]["ndcg@10"] == pytest.approx(markov["filtered"]["ndcg@10"])
    words = [{"b=--dropout .1": "b=--dropout 0.7"}.get(word, word) for word in words]
    failed(words, "error: it cannot be", capsys)
    words = [{"b=--dropout 0.7": "c="}.get(word, word) for word in words]
    failed(words, "c seed 0 could not rank the valid split: it is damaged", capsys)
    assert calls[4:] == ["b-seed0", "b-seed1", "c-seed0", "c-seed1"]


def failed(words: list[str], why: str, capsys: CaptureFixture[str]) -> None:
    """Runs the bench, one of whose runs fails, while the others are reported."""
    with pytest.raises(UserError, match="runs ended with an error, see above"):
        command.main(words)
    said = capsys.readouterr().out
    assert why in said and "### tiny, valid split" in said


@pytest.mark.long
def test_two_settings_and_two_seeds_from_data_to_tables(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "tiny", num_users=12)
    page, picture = tmp_path / "page.md", tmp_path / "it.png"
    own = ("--setting", f"a={RUN}", f"b={RUN} --dropout .5")
    words = flags_for(dataset, tmp_path / "runs", *own, "--eval_users", "9")
    words += ["--output", str(page), "--plot", str(picture)]
    command.main(words)
    (table,) = json.loads((tmp_path / "it.json").read_text())["quality"]["tables"]
    assert table["num_users"] == 9
    for row in table["settings"]:
        assert set(row["by_seed"]) == {"0", "1"}
        for seed, metrics in row["by_seed"].items():
            runs = tmp_path / "runs" / "runs" / "tiny"
            (folder,) = runs.glob(f"{row['name']}-seed{seed}-*")
            found = load_ranks(folder / "valid-9-users.npz")
            hits = np.mean(found.filtered <= 10)
            assert metrics["recall@10"] == pytest.approx(hits)
            result = json.loads((folder / "checkpoints" / "result.json").read_text())
            assert result["split"] == "valid"
            kept = json.loads((folder / "run.json").read_text())
            assert kept["steps"] == 3 and kept["seconds"] > 0
            log = (folder / "train.log").read_text()
            assert f": {kept['parameters']:,} parameters train" in log
    (folder / "run.json").unlink()  # as if it had been stopped before its end
    command.main(words)
    assert "going on from step 3" in (folder / "train.log").read_text()
    assert "### tiny, valid split" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(model_quality, "run_logged", None)
    monkeypatch.setattr(model_quality, "in_fresh_process", None)
    command.main(words)
