"""The page as a user sees it: what tests of it read, type and click."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Locator, Page, expect
from web_servers import Served

from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.inference.recommender import Recommender

expect.set_options(timeout=30_000)

MARKUP = '<img src=x onerror="document.title=1"><b>Bold</b> & "quoted"'


TITLES = {3: MARKUP, 4: "</script><script>document.title=2</script>", 5: "فيلم قديم",
          6: "x" * 300, 7: ""}  # fmt: skip


WORDS = ("Amber", "Birch", "Cobalt", "Dune", "Ember", "Fjord", "Grove")


FIRST_ID = 2**60
"""Ids that JavaScript's numbers do not hold."""


def item_id(i: int) -> int:
    return FIRST_ID + i


def title_of(i: int) -> str:
    return TITLES.get(i, f"{WORDS[i % 7]} Street {i:02}")


def shown_title(i: int) -> str:
    return title_of(i) or str(item_id(i))


def settled(page: Page) -> None:
    """Waits until the newest request is answered, and the map is drawn."""
    expect(page.locator("#answers")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#map-note")).to_contain_text("drawn in")


def answer(page: Page, column: int = 0) -> Locator:
    return page.locator("ol.answer").nth(column).locator("> li")


def titles(rows: Locator) -> list[str]:
    return rows.locator(".title").all_text_contents()


def expected(recommender: Recommender, items: Sequence[int], **options: Any) -> Any:
    """What `recommend` returns for items by their numbers."""
    table = recommender.recommend([[item_id(i) for i in items]], **options)
    return [shown_title(item - FIRST_ID) for item in table["item"]], table


def search(page: Page, text: str) -> Locator:
    page.locator("#search").fill(text)
    options = page.get_by_role("option")
    options.first.wait_for()
    return options


def add(page: Page, i: int) -> None:
    """Searches an item by its title, and clicks it."""
    with page.expect_response("**/v1/compare"):
        search(page, title_of(i)).filter(has_text=title_of(i)).first.click()
    settled(page)


def focused(page: Page) -> str:
    """What the focused element is called."""
    return page.evaluate(
        """() => { const one = document.activeElement;
             return one.getAttribute("aria-label") ?? one.labels?.[0]?.innerText
               ?? one.innerText; }"""
    ).strip()


def points(served: Served) -> tuple[list[int], np.ndarray]:
    """The items of the map, and where they are, from 0 to 1."""
    found = served.client.get("/v1/map").json()
    x, y = (np.frombuffer(base64.b64decode(found[name]), "<u2") for name in "xy")
    return found["items"], np.stack([x, y], axis=1) / 65535


def on_screen(page: Page, where: np.ndarray) -> np.ndarray:
    """Where positions of the map are on the page when the whole map is shown."""
    box = page.locator("#map").bounding_box()
    assert box is not None
    style = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    size = 0.94 * min(box["width"] - 2, box["height"] - 2)
    return style + (where - 0.5) * size


def picture(page: Page) -> bytes:
    """What the canvas shows; the mouse is elsewhere."""
    page.mouse.move(5, 5)
    page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
    )
    return page.locator("#map").screenshot()


PIXELS = """(map) => {
  const { data } = map.getContext("2d").getImageData(0, 0, map.width, map.height);
  return data.join();
}"""
"""Returns all pixels of the map."""


AROUND = """(map, [x, y]) => {
  const scale = 0.94 * Math.min(map.width, map.height);
  const px = map.width / 2 + (x - 0.5) * scale;
  const py = map.height / 2 + (y - 0.5) * scale;
  const { data } = map.getContext("2d").getImageData(px - 7, py - 1, 14, 2);
  return Array.from({ length: 28 }, (_, i) => [...data.slice(4 * i, 4 * i + 3)]);
}"""
"""Returns the colours of pixels around a position of the map."""


CONTRASTS = """() => {
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length === 3) return colour;
    }
  };
  const isText = (node) => node.nodeType === 3 && node.data.trim();
  const hasText = (one) => [...one.childNodes].some(isText);
  const texts = [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && hasText(one));
  return texts.map((one) => {
    const [a, b] = [numbers(getComputedStyle(one).color), behind(one)].map(light);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return [contrast, one.tagName, one.className];
  });
}"""
"""Returns the contrast of each visible text with what is behind it."""


def flags_of(dataset: Dataset, seed: int = 0) -> TrainConfig:
    return TrainConfig(data_dir=dataset.path, item_width=8, seq_len=16, seed=seed)


def second(run: Path) -> Path:
    return run.parent.parent / "second" / "4"


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
