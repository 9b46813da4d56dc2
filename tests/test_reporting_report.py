"""The report of runs: its numbers, its markup, what it refuses, and it in Chromium."""

import html
import itertools
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
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
from eqids.reporting.charts import Series, line_chart, point_chart
from eqids.reporting.html_parts import column
from eqids.reporting.report_data import ReportData, report_data
from eqids.reporting.report_page import report_page
from eqids.reporting.sections_accuracy import ndcg_intervals
from eqids.reporting.slices import NO_VALUE, divisions, unit_of
from eqids.reporting.svg import Frame, element, text_width, ticks
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


def test_users_without_a_value_are_a_group(films: Dataset, tmp_path: Path) -> None:
    users, _ = targets_of(films, "test")
    names = films.users()["user"][users].tolist()
    plans = np.resize(["paid", "", "trial"], len(names)).astype(object)
    absent = {names[0], names[4]}
    frame = pd.DataFrame({"user": names, "plan": plans, "joined": "2022"})
    frame = frame[~frame["user"].isin(absent)]
    frame.to_csv(tmp_path / "u.csv", index=False)
    frame["plan"] = frame["plan"].replace("", None)
    frame.to_parquet(tmp_path / "u.parquet")
    none = np.array([n in absent for n in names]) | (plans == "")
    for file in ("u.csv", "u.parquet"):
        groups = {one.title: one.groups for one in
                  divisions(films, "test", tmp_path / file)}  # fmt: skip
        assert [one.name for one in groups["plan"]] == ["paid", "trial", NO_VALUE]
        np.testing.assert_array_equal(groups["plan"][-1].members, none)
        assert [one.name for one in groups["joined"]] == ["2022", NO_VALUE]


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


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)],
)
def test_gaps_of_nothing_are_named_after_the_unit_of_times(
    unit: str, seconds: int
) -> None:
    times = seconds * (19_000 + np.array([0, 1, 5, 7, 7, 11, 30]))
    assert unit_of(times) == unit


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


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(4, 8))
def test_ticks_are_round_and_hold_the_range(low: float, span: float, most: int) -> None:
    high = low + span
    found = ticks(low, high, most)
    steps = np.diff(found)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= most + 1
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3, atol=slack)


def test_pictures_are_escaped_and_to_scale() -> None:
    found = element("text", class_='"><script>', x=1.239, y=None)
    assert found == '<text class="&quot;&gt;&lt;script&gt;" x="1.24"/>'
    frame = Frame((1, 100), (0, 2), log_x=True)
    assert frame.x(10) == pytest.approx((frame.x(1) + frame.x(100)) / 2)
    assert frame.y(1) == pytest.approx((frame.y(0) + frame.y(2)) / 2)
    assert frame.y(2) < frame.y(0) and frame.x(1) == frame.left


def test_numbers_of_a_column_have_one_format() -> None:
    assert column([0.1234567, 7.288e-05, 0.0, 1.0]) == [
        "0.123", "< 0.001", "0.000", "1.000",
    ]  # fmt: skip
    assert column([0.00915, 7.288e-05]) == ["0.0092", "0.0001"]
    assert column([-2e-5, 12.345]) == ["> -0.01", "12.35"]
    assert column([12_345.67, 0.6]) == ["12,345.7", "0.6"]


@pytest.mark.parametrize("most", [3e-9, 0.07, 19_700, 3e7])
def test_numbers_of_an_axis_overlap_neither_its_title_nor_each_other(
    most: float,
) -> None:
    one = Series("run", "r0", [0, most], [0, most])
    picture = line_chart([one], "step", "targets/s", about="")
    found = re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(end|middle)">(.*?)<', picture
    )
    down = [(float(x), text) for x, _, anchor, text in found if anchor == "end"]
    across = [(float(x), text) for x, _, anchor, text in found if anchor == "middle"]
    # The title ends 16 pixels from the left.
    assert len(down) > 2 and all(x - text_width(text) >= 17 for x, text in down)
    ends = [(x - text_width(t) / 2, x + text_width(t) / 2) for x, t in across]
    assert len(ends) > 1 and ends[-1][1] <= 460
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))


@pytest.mark.parametrize("tall", [0.05, 0.6, 3.0])
def test_a_map_names_its_largest_groups_without_overlap(tall: float) -> None:
    rng = np.random.default_rng(0)
    centre = rng.uniform(0.2, 0.8, (12, 2))
    group = np.repeat(np.arange(12), np.arange(12, 0, -1))
    places = centre[group] + 0.02 * rng.standard_normal((len(group), 2))
    places *= np.array([1, tall]) / max(1, tall)
    position = np.rint(65_535 * places.clip(0, 1)).astype(np.uint16)
    names = [f"Item {at} of {one} <b>" for at, one in enumerate(group)]
    picture = point_chart(position, group, names, [2.0] * len(group), about="map")
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', picture)
    first = [html.escape(names[np.flatnonzero(group == one)[0]]) for one in range(8)]
    assert 2 <= len(found) <= 8 and {text for *_, text in found} <= set(first)
    boxes = [(float(x), float(y), text_width(html.unescape(t))) for x, y, t in found]
    for one, other in itertools.combinations(boxes, 2):
        apart = abs(one[0] - other[0]) >= (one[2] + other[2]) / 2 - 0.1
        assert apart or abs(one[1] - other[1]) >= 19.9
    # Both axes have one scale, and the points fill the picture's width or height.
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', picture)
    shown = np.ptp(np.array(dots, float), axis=0)
    spans = np.ptp(position.astype(float), axis=0)
    assert shown[0] / spans[0] == pytest.approx(shown[1] / spans[1], rel=0.02)
    assert shown[0] == pytest.approx(968, abs=1) or tall > 1


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
