"""What the site does to `docs/` beside showing it."""

from pathlib import Path
from typing import Any

NOT_YET_WRITTEN = ("report.md", "scale.md", "gpu.md")
"""Pages of the navigation that are left out until they exist."""


def on_config(config: Any) -> Any:
    """Leaves pages out of the navigation that are not written yet."""
    folder = Path(config["docs_dir"])
    for section in config["nav"]:
        for name, pages in section.items():
            if isinstance(pages, list):
                section[name] = [
                    page
                    for page in pages
                    if not _is_missing(folder, next(iter(page.values())))
                ]
    return config


def _is_missing(folder: Path, page: str) -> bool:
    return page in NOT_YET_WRITTEN and not (folder / page).exists()


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Lets wide tables scroll, and not the page."""
    opening, closing = '<div style="overflow-x: auto"><table>', "</table></div>"
    return html.replace("<table>", opening).replace("</table>", closing)
