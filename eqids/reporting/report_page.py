"""A report as one HTML file that uses nothing outside itself."""

import re
from importlib.resources import files
from pathlib import Path

from eqids.io.atomic import new_file
from eqids.reporting.item_titles import ItemTitles
from eqids.reporting.report_data import ReportData
from eqids.reporting.sections_accuracy import accuracy
from eqids.reporting.sections_catalog import catalog, item_map
from eqids.reporting.sections_examples import examples
from eqids.reporting.sections_probability import calibration
from eqids.reporting.sections_protocol import protocol, summary
from eqids.reporting.sections_slices import slices
from eqids.reporting.sections_training import training
from eqids.reporting.svg import element, escaped


def report_page(data: ReportData) -> str:
    """Returns the page, as HTML.

    Its policy forbids the browser every request and every script, so that no text of
    the data can do anything but be shown.

    Args:
        data: from `report_data`.
    """
    titles = ItemTitles(data.dataset)
    sections = [
        accuracy(data), training(data), slices(data), calibration(data), catalog(data),
        item_map(data, titles), examples(data, titles), protocol(data),
    ]  # fmt: skip
    # The colours are those of the server's page.
    sheets = (
        files("eqids.inference.server") / "page" / "palette.css",
        files("eqids.reporting") / "report.css",
    )
    style = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    names = ", ".join(one.label for one in data.runs)
    body = [
        '<a class="skip" href="#accuracy">Skip to the results</a>',
        element("header", element("h1", escaped(f"EqIDs report: {names}")),
                summary(data)),
        _navigation(sections),
        element("main", *sections),
        element("footer", "Made by EqIDs. This file is complete: it asks for nothing."),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(f'EqIDs report: {names}')}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>"
        "\n</html>\n"
    )


def write_report(data: ReportData, path: Path) -> int:
    """Writes the page of a report; an existing file is replaced in one step.

    Args:
        data: from `report_data`.
        path: the file.

    Returns:
        Its size in bytes.

    Raises:
        UserError: the file could not be written.
    """
    page = report_page(data).encode("utf-8", errors="backslashreplace")
    with new_file(path) as partial:
        partial.write_bytes(page)
    return len(page)


def _policy() -> str:
    """No request but the empty icon; styles of this file, which bars need."""
    return "; ".join(
        ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:",
         "base-uri 'none'", "form-action 'none'"]
    )  # fmt: skip


def _navigation(sections: list[str]) -> str:
    found = re.findall(r'<h2 id="(\w+)-title">(.*?)</h2>', "".join(sections))
    links = (element("li", element("a", title, href=f"#{key}")) for key, title in found)
    return element("nav", element("ul", *links), aria_label="Sections")
