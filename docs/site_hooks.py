"""What the site does to `docs/` beside showing it."""

from typing import Any


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Lets wide tables scroll, and not the page."""
    opening, closing = '<div style="overflow-x: auto"><table>', "</table></div>"
    return html.replace("<table>", opening).replace("</table>", closing)
