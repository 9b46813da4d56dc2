"""Parts of a page: tables, figures, legends, lists of facts."""

from collections.abc import Mapping, Sequence

from eqids.reporting.svg import element, escaped


def section(key: str, title: str, *content: str) -> str:
    """Returns a section of the page.

    Args:
        key: its address on the page.
        title: its heading.
        content: markup.
    """
    heading = element("h2", escaped(title), id=f"{key}-title")
    return element("section", heading, *content, id=key, aria_labelledby=f"{key}-title")


def note(text: str) -> str:
    """Returns a paragraph that explains something; the text is escaped here."""
    return element("p", escaped(text), class_="note")


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
    kinds: Sequence[str] = (),
) -> str:
    """Returns a table whose first column names the rows.

    Args:
        header: names of the columns.
        rows: cells, not escaped yet.
        caption: what the table shows.
        kinds: the class of each row that colours the mark before its name.
    """
    head = element("tr", *(element("th", escaped(one), scope="col") for one in header))
    body = []
    for place, row in enumerate(rows):
        kind = kinds[place] if place < len(kinds) else ""
        name = (swatch(kind) if kind else "") + escaped(row[0])
        cells = (f"<td>{escaped(one)}</td>" for one in row[1:])
        body.append(element("tr", element("th", name, scope="row"), *cells))
    whole = element(
        "table",
        element("caption", escaped(caption)),
        element("thead", head),
        element("tbody", *body),
    )
    # A wide table scrolls in its own box, which the keyboard can reach.
    return element(
        "div", whole, class_="wide", tabindex=0, role="region", aria_label=caption
    )


def column(values: Sequence[float]) -> list[str]:
    """Returns the numbers of a column with the same number of decimals.

    A number that would be shown as 0 is shown as below the smallest one.

    Args:
        values: the numbers.
    """
    largest = max(map(abs, values), default=0.0)
    decimals = next(
        (num for num, least in ((1, 100), (2, 10), (3, 0.1)) if largest >= least), 4
    )
    smallest = 10.0**-decimals
    return [
        f"{'<' if value > 0 else '> -'} {smallest:.{decimals}f}".replace("- ", "-")
        if 0 < abs(value) < smallest / 2
        else f"{value:,.{decimals}f}"
        for value in values
    ]


def figure(picture: str, caption: str, numbers: str = "") -> str:
    """Returns a picture with its caption, and the numbers that it was drawn from.

    Args:
        picture: SVG.
        caption: not escaped yet.
        numbers: a table, shown on request.
    """
    more = details("Numbers", numbers) if numbers else ""
    return element("figure", element("figcaption", escaped(caption)), picture, more)


def details(title: str, *content: str) -> str:
    """Returns what is shown on request."""
    return element("details", element("summary", escaped(title)), *content)


def swatch(kind: str) -> str:
    """Returns the mark of a system: its colour, and its dashes."""
    # The dot is beside the line: on it, it would hide the dashes.
    line = element("line", x1=0, x2=38, y1=5, y2=5, class_="line")
    dot = element("circle", cx=44, cy=5, r=3.5, class_="dot")
    return element(
        "svg", element("g", line, dot, class_=kind), viewBox="0 0 48 10",
        class_="swatch", aria_hidden="true",
    )  # fmt: skip


def legend(names: Sequence[tuple[str, str]]) -> str:
    """Returns a legend.

    Args:
        names: label and class of each system.
    """
    items = (element("li", swatch(kind), escaped(one)) for one, kind in names)
    return element("ul", *items, class_="legend")


def facts(pairs: Mapping[str, str]) -> str:
    """Returns names and their values as a list."""
    rows = (
        element("dt", escaped(name)) + f"<dd>{escaped(value)}</dd>"
        for name, value in pairs.items()
    )
    return element("dl", *rows)


def command(text: str) -> str:
    """Returns a command to copy."""
    lines = "\n".join(escaped(line) for line in text.split("\n"))
    return element("pre", element("code", lines), tabindex=0)
