"""The page does what it offers, in a real Chromium and as a user acts."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_dataset
from pages import (
    AROUND,
    CONTRASTS,
    FIRST_ID,
    MARKUP,
    PIXELS,
    add,
    answer,
    expected,
    focused,
    item_id,
    on_screen,
    picture,
    points,
    search,
    settled,
    shown_title,
    title_of,
    titles,
)
from playwright.sync_api import Browser, Page, expect, sync_playwright
from runs import save_noisy
from web_servers import Served, serving

import eqids
from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.inference.recommender import Recommender

pytestmark = pytest.mark.long

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("the page is tested in Chromium, which is not installed")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=options)
        yield started
        started.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("films") / "data"
    return make_dataset(folder, item_of=item_id, title_of=title_of)


@pytest.fixture(scope="module")
def run(films: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and another one beside it."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("first", "second")):
        save_noisy(folder / name, flags_of(films, seed), films, score=0.1234)
    return folder / "first" / "4"


def flags_of(dataset: Dataset, seed: int = 0) -> TrainConfig:
    return TrainConfig(data_dir=dataset.path, item_width=8, seq_len=16, seed=seed)


def second(run: Path) -> Path:
    return run.parent.parent / "second" / "4"


@pytest.fixture(scope="module")
def served(browser: Browser, run: Path) -> Iterator[Served]:
    flags: dict[str, Any] = {"max_batch": 1, "max_k": 27, "timeout": 60.0}
    with serving(run, compare=second(run), **flags) as one:
        yield one


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return eqids.load(run)


@pytest.fixture(scope="module")
def both(recommender: Recommender, run: Path) -> tuple[Recommender, Recommender]:
    return recommender, eqids.load(second(run))


def opened(browser: Browser, served: Served, **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(30_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda said: errors.append(said.text) if said.type == "error" else None,
    )
    page.goto(str(served.client.base_url))
    settled(page)
    page.errors = errors  # type: ignore[attr-defined]
    return page


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page on a wide screen, with recommendations and the map."""
    one = opened(browser, served, viewport={"width": 1400, "height": 900})
    yield one
    one.context.close()
    assert one.errors == []  # type: ignore[attr-defined]


def test_a_user_is_found(page: Page, films: Dataset, recommender: Recommender) -> None:
    assert page.locator("#history li").count() == 0
    assert "most popular" in page.locator("#columns .note").first.inner_text()
    page.get_by_label("User").fill("user 7")
    page.get_by_role("button", name="Load").click()
    slots = films.history(7)
    rows = page.locator("#history li")
    expect(rows).to_have_count(len(slots))
    by_slot = films.items().set_index("slot")["item"]
    newest_first = [shown_title(i - FIRST_ID) for i in by_slot.loc[slots]][::-1]
    assert titles(rows) == newest_first
    settled(page)
    table = recommender.recommend([recommender.of_user("user 7")])
    ids = [shown_title(item - FIRST_ID) for item in table["item"]]
    assert titles(answer(page)) == ids
    shares = answer(page).locator(".chance span").all_text_contents()
    assert shares == [f"{100 * p:.2f}%" for p in table["probability"]]


def test_bars_are_as_long_as_probabilities(
    page: Page, both: tuple[Recommender, Recommender]
) -> None:
    add(page, 1)
    bars = page.locator(".answer .bar div")
    widths = [bar.bounding_box()["width"] for bar in bars.all()]  # type: ignore[index]
    tables = [one.recommend([[item_id(1)]]) for one in both]
    values = np.concatenate([table["probability"] for table in tables])
    np.testing.assert_allclose(
        np.array(widths) / max(widths), values / values.max(), atol=0.02
    )


def test_an_unknown_user_is_refused_in_a_sentence(page: Page) -> None:
    before = titles(answer(page))
    page.get_by_label("User").fill("<b>nobody</b>/?#")
    page.get_by_label("User").press("Enter")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("<b>nobody</b>/?#")
    assert titles(answer(page)) == before
    add(page, 1)  # and the sentence goes away when an answer comes
    expect(alert).to_be_hidden()
    page.errors.clear()  # type: ignore[attr-defined]  # Chromium logs each 404


def test_a_history_is_built_and_changed(page: Page, recommender: Recommender) -> None:
    for i in (1, 9, 2):
        add(page, i)
    assert titles(page.locator("#history li")) == [title_of(i) for i in (2, 9, 1)]
    assert titles(answer(page)) == expected(recommender, [1, 9, 2])[0]
    page.get_by_role("button", name=f"Remove {title_of(9)}").click()
    settled(page)
    assert titles(answer(page)) == expected(recommender, [1, 2])[0]
    page.get_by_label("Seen items too").check()
    page.get_by_label("Items", exact=True).fill("5")
    page.get_by_label("Items", exact=True).press("Enter")
    settled(page)
    kept = expected(recommender, [1, 2], k=5, filter_seen=False)[0]
    assert titles(answer(page)) == kept
    page.get_by_role("button", name="Clear").click()
    settled(page)
    assert "most popular" in page.locator("#columns .note").first.inner_text()


def test_a_recommended_item_is_used(page: Page, recommender: Recommender) -> None:
    add(page, 1)
    (first, *_), table = expected(recommender, [1])
    answer(page).first.get_by_role("button", name="Add").click()
    settled(page)
    assert titles(page.locator("#history li")) == [first, title_of(1)]
    second = int(table["item"][0]) - FIRST_ID
    assert titles(answer(page)) == expected(recommender, [1, second])[0]


def test_items_are_denied_and_allowed(page: Page, recommender: Recommender) -> None:
    add(page, 1)
    first, second, *_ = expected(recommender, [1])[1]["item"]
    answer(page).first.get_by_role("button", name="Never").click()
    settled(page)
    denied = expected(recommender, [1], deny=[first])[0]
    assert titles(answer(page)) == denied
    assert titles(page.locator("#deny li")) == [shown_title(first - FIRST_ID)]
    page.get_by_text("Only these", exact=True).first.click()
    for i in (10, 11, second - FIRST_ID):
        if title_of(i):
            add(page, i)
    allow = [
        item_id(10),
        item_id(11),
        *([second] if title_of(second - FIRST_ID) else []),
    ]
    only = expected(recommender, [1], deny=[first], allow=allow)[0]
    assert titles(answer(page)) == only
    for name in ("deny", "allow"):
        for _ in range(page.locator(f"#{name} li").count()):
            page.locator(f"#{name} li button").first.click()
            settled(page)
        expect(page.locator(f"#{name}-part")).to_be_hidden()
    assert titles(answer(page)) == expected(recommender, [1])[0]


def test_hints_are_the_nearest_items_of_the_history(
    page: Page, recommender: Recommender
) -> None:
    history = [1, 9, 2, 12, 13]
    for i in history:
        add(page, i)
    softmax = recommender.opened.model.softmax
    vectors = np.asarray(softmax.table).reshape(-1, softmax.table.shape[-1])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    slot = recommender.dataset.items().set_index("item")["slot"]
    _, table = expected(recommender, history)
    for row, item in zip(answer(page).all(), table["item"], strict=True):
        cosine = {i: vectors[slot[item]] @ vectors[slot[item_id(i)]] for i in history}
        best = sorted(history, key=lambda i: -cosine[i])[:3]
        near = [title_of(i) for i in best if cosine[i] > 0]
        assert row.locator(".near").all_text_contents() == near
        shown = [float(x) for x in row.locator(".why small").all_text_contents()]
        np.testing.assert_allclose(
            shown, [cosine[i] for i in best[: len(near)]], atol=0.01
        )


def test_two_checkpoints_are_side_by_side(
    page: Page, both: tuple[Recommender, Recommender]
) -> None:
    add(page, 1)
    add(page, 2)
    tables = [expected(one, [1, 2])[0] for one in both]
    assert [titles(answer(page, column)) for column in (0, 1)] == tables
    assert page.locator("#columns h3").all_text_contents() == [
        "first step 4", "second step 4"
    ]  # fmt: skip
    for one, other, column in ((*tables, 0), (*tables[::-1], 1)):
        marks = answer(page, column).locator(".elsewhere").all_text_contents()
        assert marks == [
            f"rank {other.index(title) + 1} in the other"
            if title in other
            else "only here"
            for title in one
        ]
    common = len({*tables[0]} & {*tables[1]})
    note = page.locator("#columns .note").first.inner_text()
    assert f"{common} of 10 are in both lists" in note
    page.get_by_label("Side by side").uncheck()
    settled(page)
    expect(page.locator("ol.answer")).to_have_count(1)
    assert titles(answer(page)) == tables[0]


def test_the_model_card_has_the_model(page: Page, served: Served) -> None:
    model = served.client.get("/v1/model").json()
    card = dict(
        zip(
            page.locator("#model dt").all_text_contents(),
            page.locator("#model dd").all_text_contents(),
            strict=True,
        )
    )
    assert card["Step"] == "4"
    assert card["Checkpoint"] == model["model"]["checkpoint"]
    assert card["NDCG@10 on validation"] == "0.1234"
    assert card["Catalog"] == f"{model['model']['catalog_id'][:12]}, version 1"
    assert (card["Items"], card["Users"]) == ("27", "40")
    assert card["Compared with"] == model["compared"]["checkpoint"]


def test_a_reload_is_followed(
    page: Page, served: Served, both: tuple[Recommender, Recommender], run: Path
) -> None:
    checkpoint = page.locator("#model dt:text-is('Checkpoint') + dd")
    expect(checkpoint).to_have_text(str(run))
    try:
        done = served.post("/v1/reload", {"checkpoint": str(second(run))})
        assert done.status_code == 200, done.text
        with page.expect_response("**/v1/map"):
            add(page, 1)
        expect(checkpoint).to_have_text(str(second(run)))
        assert titles(answer(page)) == expected(both[1], [1])[0]
    finally:
        served.post("/v1/reload", {"checkpoint": str(run)})


def test_the_map_is_moved_and_zoomed(page: Page) -> None:
    whole = picture(page)
    changes = (
        lambda: page.get_by_role("button", name="Zoom in").click(),
        lambda: page.locator("#map").press("ArrowRight"),
        lambda: page.locator("#map").press("+"),
        lambda: (page.locator("#map").hover(), page.mouse.wheel(0, -300)),
        lambda: page.locator("#map").drag_to(
            page.locator("#map"),
            source_position={"x": 100, "y": 100},
            target_position={"x": 180, "y": 140},
        ),
    )
    before = whole
    for change in changes:
        change()
        page.locator("#catalog-title").click()  # takes the focus ring from the map
        now = picture(page)
        assert now != before
        before = now
    page.get_by_role("button", name="All").click()
    assert picture(page) == whole


def test_an_item_is_picked_on_the_map(page: Page, served: Served) -> None:
    items, where = points(served)
    spots = on_screen(page, where)
    # One that no other item is near to.
    gaps = np.linalg.norm(spots[:, None] - spots, axis=2) + np.eye(len(spots)) * 1e9
    alone = int(gaps.min(axis=1).argmax())
    page.mouse.click(*spots[alone])
    picked = page.locator("#picked")
    title = shown_title(items[alone] - FIRST_ID)
    expect(picked.locator(".title")).to_have_text(title)
    picked.get_by_role("button", name="Add").click()
    settled(page)
    assert titles(page.locator("#history li")) == [title]
    page.locator("#map").press("0")
    page.locator("#map").press("Enter")  # the item nearest to the middle
    middle = int(np.linalg.norm(where - 0.5, axis=1).argmin())
    title = shown_title(items[middle] - FIRST_ID)
    expect(picked.locator(".title")).to_have_text(title)
    picked.get_by_role("button", name="Never").click()
    settled(page)
    assert titles(page.locator("#deny li")) == [title]


def test_history_and_answer_are_marked_on_the_map(page: Page, served: Served) -> None:
    items, where = points(served)
    plain = page.locator("#map").evaluate(PIXELS)
    add(page, 1)
    _, first = page.locator("#map").evaluate(PIXELS), titles(answer(page))[0]
    marked = page.locator("#map").evaluate(PIXELS)
    assert marked != plain
    for title, colour in ((title_of(1), [255, 255, 255]), (first, [28, 29, 31])):
        (at,) = (n for n, i in enumerate(items) if shown_title(i - FIRST_ID) == title)
        ring = page.locator("#map").evaluate(AROUND, [*where[at].tolist()])
        assert colour in ring, (title, ring)


def test_titles_are_text(page: Page, served: Served) -> None:
    title = page.title()
    for i in (3, 4, 5, 6):
        add(page, i)
    search(page, "<img")
    assert titles(page.get_by_role("option")) == [MARKUP]
    page.keyboard.press("Escape")
    assert titles(page.locator("#history li")) == [title_of(i) for i in (6, 5, 4, 3)]
    items, where = points(served)
    page.mouse.move(*on_screen(page, where)[items.index(item_id(3))])
    page.wait_for_timeout(50)
    assert page.title() == title
    assert page.locator("main img, main b, main script").count() == 0
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    page.get_by_label("Seen items too").check()
    page.get_by_label("Items", exact=True).fill("27")
    page.get_by_label("Items", exact=True).press("Enter")
    settled(page)
    # An item without a title is called by its id, with all digits.
    assert {*titles(answer(page))} == {shown_title(i) for i in range(27)}


def test_no_script_but_the_page_s_runs(page: Page) -> None:
    refused = page.evaluate(
        """() => { try { document.body.innerHTML = "<b>x</b>"; return false; }
                   catch (error) { return error instanceof TypeError; } }"""
    )
    assert refused
    page.evaluate(
        """() => { const script = document.createElement("script");
                   try { script.text = "window.ran = 1"; } catch {}
                   document.body.append(script); }"""
    )
    assert page.evaluate("window.ran") is None
    blocked = page.evaluate(
        "fetch('http://127.0.0.1:9/').then(() => '', (error) => String(error))"
    )
    assert "TypeError" in blocked
    page.errors.clear()  # type: ignore[attr-defined]  # Chromium reports each of these


def test_all_of_it_works_by_keyboard(page: Page, recommender: Recommender) -> None:
    keyboard = page.keyboard
    keyboard.press("Tab")
    assert focused(page) == "Skip to the recommendations"
    keyboard.press("/")
    assert page.locator("#search").evaluate("(one) => one === document.activeElement")
    for word, options in (("amber", 3), ("birch", 4)):
        keyboard.type(word)
        expect(page.get_by_role("option")).to_have_count(options)
        keyboard.press("ArrowDown")
        keyboard.press("ArrowDown")
        keyboard.press("ArrowUp")
        active = page.locator("#search").get_attribute("aria-activedescendant")
        assert active == page.locator("[aria-selected=true]").get_attribute("id")
        keyboard.press("Enter")
        settled(page)
    assert page.locator("#history li").count() == 2
    keyboard.type("cobalt")
    page.get_by_role("option").first.wait_for()
    keyboard.press("Escape")
    expect(page.get_by_role("listbox", name="Found items")).to_be_hidden()
    page.locator("#search").fill("")
    while not focused(page).startswith("Remove"):
        keyboard.press("Tab")
    newest = titles(page.locator("#history li"))[0]
    assert focused(page) == f"Remove {newest}"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    keyboard.press("Enter")
    settled(page)
    (left,) = titles(page.locator("#history li"))
    assert focused(page) == f"Remove {left}"  # the row in its place
    while not focused(page).startswith("Never recommend"):
        keyboard.press("Tab")
    denied = focused(page).removeprefix("Never recommend ")
    keyboard.press("Space")
    settled(page)
    assert titles(page.locator("#deny li")) == [denied]
    assert focused(page).startswith("Never recommend")
    while focused(page) != "Map of the catalog":
        keyboard.press("Tab")
    keyboard.press("Enter")
    expect(page.locator("#picked .title")).to_be_visible()
    keyboard.press("Tab")
    assert focused(page).startswith("Add")
    keyboard.press("Enter")
    settled(page)
    assert page.locator("#history li").count() == 2


@pytest.mark.parametrize("width", [320, 390, 800])
def test_it_is_readable_on_a_narrow_screen(
    browser: Browser, served: Served, width: int
) -> None:
    size = {"width": width, "height": 740}
    page = opened(browser, served, viewport=size, has_touch=True, is_mobile=True)
    for i in (6, 1):
        search(page, title_of(i)[:40]).first.tap()
        settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("#user", "#search", ".answer .bar", "#map", "#model"):
        box = page.locator(name).first.bounding_box()
        assert box is not None and box["width"] >= 40, name
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
    small = [
        button.inner_text()
        for button in page.locator("main button:visible").all()
        if min((button.bounding_box() or {})[side] for side in ("width", "height")) < 28
    ]
    assert small == []
    before = page.evaluate("scrollY")
    page.locator("#map").scroll_into_view_if_needed()
    assert page.evaluate("scrollY") > before
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(browser: Browser, served: Served, scheme: Any) -> None:
    """Of 4.5 to 1 or more, as WCAG's level AA wants."""
    page = opened(browser, served, color_scheme=scheme)
    search(page, title_of(1)).first.click()
    settled(page)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 50
    assert [one for one in found if one[0] < 4.5] == []
    bodies = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", bodies))) < 384) == (scheme == "dark")
    page.context.close()


def test_a_key_is_typed_in_and_kept_in_memory(
    browser: Browser, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("right-key\n")
    flags: dict[str, Any] = {"max_batch": 1, "max_k": 16, "timeout": 60.0}
    with serving(run, api_key_file=tmp_path / "keys", **flags) as one:
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.goto(str(one.client.base_url))
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Key").fill("wrong-key")
        page.keyboard.press("Enter")
        expect(dialog.get_by_text("not valid")).to_be_visible()
        dialog.get_by_label("Key").fill("right-key")
        dialog.get_by_role("button", name="Use").click()
        settled(page)
        expect(dialog).to_be_hidden()
        assert answer(page).count() == 10
        kept = "[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]"
        assert page.evaluate(kept) == ["{}", "{}"]
        assert page.context.cookies() == []
        assert "right-key" not in page.content() + page.url
        page.reload()
        dialog.wait_for()
        page.keyboard.press("Escape")
        expect(page.get_by_role("alert").first).to_contain_text("API key")
        page.close()


def test_the_page_s_files_may_use_this_server_only(served: Served) -> None:
    start = served.client.get("/")
    assert start.headers["content-type"] == "text/html; charset=utf-8"
    named = [*re.findall(r'(?:href|src)="(page/[^"]+)"', start.text)]
    modules = [name for name in named if name.endswith(".js")]
    while modules:
        text = served.client.get(f"/{modules.pop()}").text
        new = [f"page/{one}" for one in re.findall(r'from "\./([^"]+)"', text)]
        modules += [name for name in new if name not in named]
        named += new
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for name in {*named}:
        found = served.client.get(f"/{name}")
        assert found.status_code == 200, name
        assert found.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        outside = re.findall(r"https?://[^\s\"']+", found.text)
        assert {*outside} <= {"http://www.w3.org/2000/svg"}, name
        tag = {"if-none-match": found.headers["etag"]}
        assert served.client.get(f"/{name}", headers=tag).status_code == 304
    for path in (
        "/page/",
        "/page/..%2fservice.py",
        "/page/../service.py",
        "/index.html",
    ):
        assert served.client.get(path).status_code == 404, path


def test_a_map_of_100_thousand_items_is_drawn(
    browser: Browser, tmp_path: Path, record_property: Any
) -> None:
    sizes = {"num_clusters": 1600, "cluster_size": 64, "num_items": 100_000}
    large = make_dataset(tmp_path / "data", **sizes)
    save_noisy(tmp_path / "run", flags_of(large), large)
    flags: dict[str, Any] = {"max_batch": 1, "max_k": 16, "timeout": 120.0}
    with serving(tmp_path / "run" / "4", **flags) as one:
        page = opened(browser, one, viewport={"width": 1400, "height": 900})
        note = page.locator("#map-note")
        expect(note).to_contain_text("100,000 items")
        page.locator("#map").hover()
        times = []
        for _ in range(10):
            page.mouse.wheel(0, -100)
            page.wait_for_timeout(50)
            times.append(float(re.findall(r"in ([\d.]+) ms", note.inner_text())[0]))
        record_property("milliseconds", json.dumps(sorted(times)))
        print(f"frames of 100,000 points: {sorted(times)} ms")
        page.locator("#map").press("Enter")
        expect(page.locator("#picked .title")).to_contain_text("Film")
        page.context.close()
