"""The map of the page, its texts and its scripts, its keys, and who can use it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_dataset
from pages import (
    AROUND,
    FIRST_ID,
    MARKUP,
    PIXELS,
    add,
    answer,
    flags_of,
    item_id,
    on_screen,
    opened,
    picture,
    points,
    search,
    settled,
    shown_title,
    title_of,
    titles,
)
from playwright.sync_api import Browser, Page, expect
from runs import save_noisy
from web_servers import Served, serving

pytest_plugins = ["page_fixtures"]
pytestmark = pytest.mark.long


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
