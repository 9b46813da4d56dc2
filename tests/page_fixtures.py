"""Fixtures of the tests of the page: Chromium, films, their server, the page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_dataset
from pages import (
    flags_of,
    item_id,
    opened,
    second,
    title_of,
)
from playwright.sync_api import Browser, Page, sync_playwright
from runs import save_noisy
from web_servers import Served, serving

import eqids
from eqids.data import Dataset
from eqids.inference.recommender import Recommender

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


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page on a wide screen, with recommendations and the map."""
    one = opened(browser, served, viewport={"width": 1400, "height": 900})
    yield one
    one.context.close()
    assert one.errors == []  # type: ignore[attr-defined]
