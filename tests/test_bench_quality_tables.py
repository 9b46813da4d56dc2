"""The tables of the quality bench: their intervals, figures and files."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quality_records import OTHER, WIDE, ranks, record

from bench.paired_bootstrap import PairedDifference, paired_bootstrap
from bench.published import PUBLISHED
from bench.quality_markdown import BEGIN, END, markdown, write_markdown
from bench.quality_plot import draw_quality
from bench.quality_settings import SETTINGS, Setting
from bench.quality_tables import QualityTable, RankedRun, quality_table
from eqids.config import UserError


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


def test_named_settings_and_published_figures_keep_request_time_apart() -> None:
    assert [one.name for one in SETTINGS.values() if one.request_time] == [
        "request-time"
    ]
    assert Setting("x", ("--request-time",)).request_time
    for one in PUBLISHED:
        assert one.request_time == ("time" in one.model)
        assert 0 < one.metrics["ndcg@10"] < one.metrics["recall@10"] < 1
        assert one.source


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
