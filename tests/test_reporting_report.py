"""The report of runs: its numbers, its markup, what it refuses, and it in Chromium."""

import html
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import CONTRASTS, MARKUP, flags_of, second
from playwright.sync_api import Browser, Page
from pytest import CaptureFixture
from runs import refused, save_noisy

from bench.paired_bootstrap import paired_bootstrap
from eqids import report
from eqids.cli.command_line import read
from eqids.config import ReportConfig, TrainConfig
from eqids.data import Dataset
from eqids.data.facts import facts_of
from eqids.fit.evaluation import target_slots, targets_of
from eqids.fit.ranking import metrics
from eqids.reporting.bootstrap import Bootstrap
from eqids.reporting.report_data import ReportData, report_data
from eqids.reporting.report_page import report_page
from eqids.reporting.sections_accuracy import ndcg_intervals
from eqids.reporting.slices import divisions
from eqids.reporting.train_command import train_command
from eqids.runs.recipe import resolved

pytest_plugins = ["page_fixtures"]

SECTIONS = "accuracy training slices calibration catalog map examples protocol".split()
VOID = {"meta", "link", "br", "img"}


@pytest.fixture(scope="module")
def columns(films: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns of users: one with markup in a value, and a user who is unknown."""
    users = films.users()["user"]
    kinds = np.resize(["<i>free</i>", "paid", "trial"], len(users))
    frame = pd.DataFrame({"user": users, "plan": kinds})
    file = tmp_path_factory.mktemp("columns") / "users.csv"
    pd.concat([frame, pd.DataFrame({"user": ["nobody"], "plan": ["paid"]})]).to_csv(
        file, index=False
    )
    return file


@pytest.fixture(scope="module")
def data(run: Path, columns: Path) -> ReportData:
    """Of two runs, with columns of users."""
    config = ReportConfig(run=(run, second(run)), user_columns=columns, examples=20)
    return report_data(config, lambda text: None)


@pytest.fixture(scope="module")
def text(data: ReportData) -> str:
    return report_page(data)


class Checked(HTMLParser):
    """Reads a page strictly: every element is closed, in the right order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href", "action"):
                self.addresses.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_complete_and_well_formed(text: str, data: ReportData) -> None:
    page = Checked(text)
    assert [one for one in page.ids if not one.endswith("-title")] == SECTIONS
    assert len(set(page.ids)) == len(page.ids)
    assert "script" not in page.names and "foreignobject" not in page.names
    inside = {f"#{one}" for one in SECTIONS}
    assert set(page.addresses) == inside | {"data:,"}
    # The titles and values that are markup are shown as text.
    assert MARKUP not in text and "&lt;img src=x" in text
    assert "</script><script>" not in text and "&lt;i&gt;free&lt;/i&gt;" in text
    assert page.names.count("svg") > 12 and len(text) < 5_000_000
    assert text.count("<summary>User ") == 20
    assert not re.search(r"\b(nan|inf)\b", text)


def test_the_numbers_are_those_of_an_evaluation(text: str, data: ReportData) -> None:
    for one in data.systems:
        found = metrics(one.ranks[:, 0])
        row = re.search(rf"</svg>{one.label}</th>(.*?)</tr>", text)
        assert row is not None
        shown = re.findall(r"<td>([\d.]+) \(", row[1])
        wanted = ("recall@10", "ndcg@10", "mrr@10", "recall@50", "ndcg@50")
        assert shown == [f"{found[name]:.4f}" for name in wanted]
    first, _ = data.runs
    assert first.run is not None
    nll = -first.run.found.ranked[:, 2].mean()
    assert f"<td>{nll:.4f}</td>" in text
    kept = report_data(data.config, lambda said: pytest.fail(said))  # from the cache
    for again, one in zip(kept.systems, data.systems, strict=True):
        np.testing.assert_array_equal(again.ranks, one.ranks)
        np.testing.assert_array_equal(again.lists.slots, one.lists.slots)


def test_intervals_are_those_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1.0, (2_000, 2)).astype(np.float32)
    members = rng.random(2_000) < 0.2
    bootstrap = Bootstrap(2_000, seed=1)
    for part in (None, members):
        own = values if part is None else values[part]
        for found, mine in zip(bootstrap.means(values, part), own.T, strict=True):
            error = 1.96 * mine.std() / np.sqrt(len(mine))
            assert found.mean == pytest.approx(mine.mean(), abs=1e-5)
            assert found.low == pytest.approx(mine.mean() - error, abs=0.2 * error)
            assert found.high == pytest.approx(mine.mean() + error, abs=0.2 * error)
            assert found.num == len(mine)
    # Paired: a difference that every user has has no spread, though both means have.
    (found,) = bootstrap.means(values[:, :1] - (values[:, :1] - 0.25))
    assert found.low == pytest.approx(0.25, abs=1e-4) == found.high


def test_intervals_are_those_of_drawing_users_one_sample_after_another() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((2, 300))
    loop = paired_bootstrap(ours, theirs, seed=3, draws=200)
    (found,) = Bootstrap(300, 3, draws=200).means((ours - theirs)[:, None])
    for name in ("mean", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(loop, name), abs=1e-6)


def test_intervals_of_runs_hold_their_means(data: ReportData) -> None:
    for one, interval in zip(data.systems, ndcg_intervals(data), strict=True):
        assert interval.mean == pytest.approx(metrics(one.ranks[:, 0])["ndcg@10"])
        assert interval.low < interval.mean < interval.high


def test_divisions_hold_every_user_once(films: Dataset, columns: Path) -> None:
    users, positions = targets_of(films, "test")
    target, names = target_slots(films, "test"), films.users()["user"]
    found = {one.title: one.groups for one in divisions(films, "test", columns)}
    assert list(found)[-1] == "plan" and len(found) >= 4
    for groups in found.values():
        members = np.stack([one.members for one in groups])
        np.testing.assert_array_equal(members.sum(axis=0), 1)
        assert members.any(axis=1).all()
    counts = films.item_counts.reshape(-1)[target]
    values = {"Events in the history": positions,
              "Training events of the target": counts}  # fmt: skip
    for title, numbers in values.items():
        for one in found[title]:
            low, _, high = one.name.replace(",", "").partition(" to ")
            own = numbers[one.members]
            assert (own.min(), own.max()) == (int(low), int(high or low))
    assert films.times is not None
    events = films.offsets[users] + positions
    gap = films.times[events] - films.times[events - 1]
    same = next(g for g in found["Time since the last event"] if "same" in g.name)
    np.testing.assert_array_equal(same.members, gap == 0)
    plans = np.resize(["<i>free</i>", "paid", "trial"], len(names))
    for one in found["plan"]:
        np.testing.assert_array_equal(one.members, plans[users] == one.name)


def test_a_column_of_one_value_and_the_seen_targets_are_named(
    run: Path, films: Dataset, tmp_path: Path
) -> None:
    pd.DataFrame({"user": films.users()["user"], "joined": "2022"}).to_csv(
        tmp_path / "u.csv", index=False
    )
    config = ReportConfig(run=(run,), user_columns=tmp_path / "u.csv", examples=0)
    data = report_data(config, lambda text: None)
    text = report_page(data)
    assert re.search(r"all users are in one group: [^<]*joined \(2022\)\.<", text)
    users, positions = targets_of(films, "test")
    seen = [
        films.history(user)[at] in films.history(user)[:at]
        for user, at in zip(users.tolist(), positions, strict=True)
    ]
    np.testing.assert_array_equal(data.target_seen, seen)
    share = f"{100 * np.mean(seen):.0f}%"
    assert f"; {share} of the targets are items that the user had before" in text
    assert f"<dd>{sum(seen)} of {len(users)} ({share})</dd>" in text
    # Each group says how many users it has, and how many of their targets were seen.
    for one in divisions(films, "test")[0].groups:
        own = np.array(seen)[one.members]
        said = f"{len(own)} users, {100 * own.mean():.0f}% seen"
        assert f">{one.name}</text>" in text and f">{said}</text>" in text
    assert ("recommend with --keep_seen" in text) == (np.mean(seen) > 0.1)


def test_what_cannot_be_compared_is_refused(
    run: Path, films: Dataset, dataset: Dataset, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    other, later, out = tmp_path / "other", tmp_path / "later", tmp_path / "out"
    save_noisy(other, flags_of(dataset), dataset)
    knows = replace(flags_of(films), request_time=True)
    save_noisy(later, knows, films)
    out.mkdir()

    def refusal(*flags: str) -> str:
        said = refused(report.main, list(flags), capsys)
        assert said.count("\n") == 1
        return said

    to = ("--output", str(out / "r.html"))
    said = refusal(str(run), str(other), *to)
    assert "never put beside each other" in said and str(other) in said
    assert "(--request_time)" in refusal(str(run), str(later), *to)
    assert not list(out.iterdir())
    assert "needs RUN" in refusal()
    assert "no such folder" in refusal(str(tmp_path / "none"))
    said = refusal(str(run), "--output", str(tmp_path / "no" / "r.html"))
    assert "--output" in said and "cannot be written" in said
    (tmp_path / "users.csv").write_text("name,plan\na,b\n")
    wrong = ("--user_columns", str(tmp_path / "users.csv"))
    assert "column name is a user who is evaluated" in refusal(str(run), *wrong)
    (tmp_path / "users.csv").write_text("user,plan\na,b\n")
    assert "none of the 1 values of its column user" in refusal(str(run), *wrong)
    (tmp_path / "users.csv").write_text("customer\na\n")
    assert "has the column customer alone" in refusal(str(run), *wrong)


@pytest.fixture(scope="module")
def file(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(text)
    return path


def opened(browser: Browser, file: Path, **options: object) -> Page:
    """The page, which fails the test if it says or requests anything."""
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    noise: list[str] = []
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("console", lambda said: noise.append(said.text))
    page.on("request", lambda one: noise.append(one.url))
    page.goto(file.as_uri())
    assert noise in ([file.as_uri()], [file.as_uri(), "data:,"])
    return page


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 360])
def test_the_page_fits_and_can_be_read(
    browser: Browser, file: Path, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    page = opened(browser, file, color_scheme=scheme, viewport=size)
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    widest = page.evaluate("document.documentElement.scrollWidth")
    assert widest <= width
    assert page.title().startswith("EqIDs report")  # no title ran as a script
    found = page.evaluate(CONTRASTS)
    dim = [one for one in found if one[0] < 4.5 and one[1] not in ("text", "title")]
    assert len(found) > 300 and not dim
    for key in SECTIONS:
        box = page.locator(f"#{key}").bounding_box()
        assert box is not None and box["width"] <= width
    letters = page.locator("figure svg text").first
    assert letters.evaluate("(t) => t.getBoundingClientRect().height") >= 9
    page.context.close()


@pytest.mark.long
def test_the_page_works_by_keyboard(browser: Browser, file: Path) -> None:
    page = opened(browser, file, viewport={"width": 1000, "height": 700})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the results"
    for key in SECTIONS:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.hash") == f"#{key}"
    for key in SECTIONS:
        page.locator(f"nav a[href='#{key}']").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == f"#{key}"
    page.evaluate("document.querySelector('#examples summary').focus()")
    user = page.locator("#examples details").first
    assert user.locator("ol").first.is_hidden()
    page.keyboard.press("Enter")
    assert user.locator("ol").first.is_visible()
    # Wide tables take the focus, so that the arrow keys scroll them.
    boxes = page.locator(".wide")
    assert all(one.get_attribute("tabindex") == "0" for one in boxes.all())
    page.context.close()


def test_the_commands_train_the_same_run_again(films: Dataset, text: str) -> None:
    """What the report prints parses to the flags that the run recorded."""
    flags = replace(flags_of(films, seed=1), llama_size="nano")
    more = replace(flags, tied_items=False, num_steps=7, learning_rate=1e-4)
    for flagged in (flags, replace(more, checkpoint_dir=Path("runs/with space"))):
        config = resolved(flagged, facts_of(films))
        words = shlex.split(train_command(config))
        assert words[:3] == ["python", "-m", "eqids.train"]
        assert read(TrainConfig, words[3:], "python -m eqids.train") == flagged
    assert "python -m eqids.train --data_dir" in text
    report_command = next(
        html.unescape(line)
        for line in text.split("\n")
        if "python -m eqids.report" in line
    )
    words = shlex.split(report_command.rpartition("python -m ")[2])
    config = read(ReportConfig, words[1:], words[0], positional=True)
    assert len(config.run) == 2 and config.user_columns is not None
