"""HTML elements that are safe and balanced by construction."""

from html import escape

VOID = {"br", "img", "link", "meta"}  # elements without an end tag


class Markup(str):
    """HTML to be inserted as it is; every other string is text and gets escaped."""

    __slots__ = ()


def element(tag: str, /, *children, **attributes) -> Markup:
    """An element with its children.

    Args:
        tag: Its name.
        children: `Markup` is kept; anything else is turned to text and escaped. None is left out.
        attributes: "class_" gives `class`, other underscores become hyphens. An attribute whose
            value is None is left out, one that is True has no value.
    """
    words = [tag]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None:
            words.append(f'{key}="{_text(value)}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if tag in VOID else f"{opening}{join(children)}</{tag}>")


def join(children) -> Markup:
    """Children one after the other, escaped where they are not `Markup`."""
    kept = (child for child in children if child is not None)
    return Markup("".join(c if isinstance(c, Markup) else _text(c) for c in kept))


def _text(value) -> str:
    """Escaped; half a surrogate pair, which JSON may hold and no file can, becomes a "?"."""
    return escape(str(value)).encode("utf-8", "replace").decode("utf-8")


def spaced(children) -> list[Markup]:
    """Children with a space after each, at which a line may break."""
    return [join((child, " ")) for child in children]


def percent(value: float | None) -> str:
    """A share as papers print it: times 100, one decimal, no sign on a zero; a dash for None."""
    if value is None:
        return "–"
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "−")


def counted(number: int, noun: str) -> str:
    """ "1 video", "2 videos"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(caption: str, header, rows, class_: str | None = None) -> Markup:
    """A table in a frame that scrolls sideways where the page is too narrow.

    Args:
        caption: Says what the table holds; it also names the frame.
        header: Column heads, the first over the row heads.
        rows: Sequences of as many cells; the first is the row's head. Numbers stand right.
        class_: Of the table.
    """
    head = element("tr", *(element("th", text, scope="col") for text in header))
    body = [
        element(
            "tr",
            element("th", first, scope="row"),
            *(element("td", cell) for cell in cells),
        )
        for first, *cells in rows
    ]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *body),
        class_=class_,
    )
    # Focusable, so that it scrolls by keyboard as well.
    return element("div", whole, class_="wide", role="region", aria_label=caption, tabindex=0)
