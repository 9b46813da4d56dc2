"""docs/ as a site: built with warnings as errors, and nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
pytest.importorskip("material", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")

_LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src",
           "source": "src", "video": "src", "use": "href"}  # fmt: skip
"""Tags whose attribute a browser fetches while it shows a page."""


class _Assets(HTMLParser):
    """Collects what a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        name = _LOADED.get(tag)
        if tag == "link" and values.get("rel") in ("canonical", "prev", "next"):
            return
        if name is not None and values.get(name):
            self.found.append(str(values[name]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assets = _Assets()
        assets.feed(page.read_text())
        outside = [one for one in assets.found if re.match(r"(https?:)?//", one)]
        assert assets.found and not outside, (page, outside)
    for style in site.rglob("*.css"):
        assert not re.search(
            r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()
        )


def test_every_page_is_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f'href="{page.stem}.html"' in home or page.stem == "index"


def test_the_api_page_has_arguments_and_returns(site: Path) -> None:
    page = re.sub(r"<[^>]+>", " ", (site / "api.html").read_text())
    for name in ("prepare_dataset", "train_model", "recommend", "TrainConfig"):
        assert name in page
    assert "the interactions: a DataFrame" in page
    assert "The folder of the run" in page
