"""The page does what it offers, in a real Chromium and as a user acts."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import (
    CONTRASTS,
    FIRST_ID,
    add,
    answer,
    expected,
    focused,
    item_id,
    opened,
    search,
    second,
    settled,
    shown_title,
    title_of,
    titles,
)
from playwright.sync_api import Browser, Page, Route, expect
from web_servers import Served

from eqids.data import Dataset
from eqids.inference.recommender import Recommender

pytest_plugins = ["page_fixtures"]
pytestmark = pytest.mark.long


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


def test_a_late_answer_keeps_the_option_that_an_arrow_key_chose(page: Page) -> None:
    late: list[Route] = []
    page.route(lambda url: "q=amber" in url, lambda route: late.append(route))
    page.locator("#search").fill("ambe")
    expect(page.get_by_role("option")).to_have_count(3)
    page.locator("#search").press_sequentially("r")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("[aria-selected=true]")
    text = chosen.text_content()
    while not late:
        page.wait_for_timeout(10)
    chosen.evaluate("(option) => option.dataset.old = 1")
    late[0].continue_()
    expect(page.locator("[data-old]")).to_have_count(0)
    assert chosen.text_content() == text
    page.keyboard.press("Escape")


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
