"""What all pictures share: their colours, light and dark, and text that is safe in SVG and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

LIGHT = {
    "bg": "#ffffff",
    "fg": "#1f2328",
    "muted": "#59636e",
    "line": "#d8dee4",
    "box": "#f6f8fa",
    "edge": "#6e7781",
    "on": "#ffffff",
    "completed": "#1a7f4b",
    "skipped": "#7d8590",
    "running": "#0969da",
    "pending": "#7d8590",
    "stopped": "#6e7781",
    "cancelled": "#8250df",
    "interrupted": "#9a6700",
    "retried": "#bc4c00",
    "failed": "#cf222e",
    "inside": "#6e7781",
}
"""The colours by day, by what they mean; ``on`` is text on a bar."""

DARK = {
    "bg": "#0d1117",
    "fg": "#e6edf3",
    "muted": "#9198a1",
    "line": "#2b323b",
    "box": "#161b22",
    "edge": "#7d8590",
    "on": "#0d1117",
    "completed": "#3fb97a",
    "skipped": "#848d97",
    "running": "#58a6ff",
    "pending": "#848d97",
    "stopped": "#848d97",
    "cancelled": "#b38bfa",
    "interrupted": "#d29922",
    "retried": "#f0883e",
    "failed": "#ff6a69",
    "inside": "#848d97",
}
"""The colours by night."""


def _variables(colours: Mapping[str, str]) -> str:
    return "".join(f"--wf-{name}:{colour};" for name, colour in colours.items())


FONT = "ui-sans-serif,system-ui,-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif"

STYLE = (
    f".wf{{{_variables(LIGHT)}color-scheme:light dark}}"
    f"@media screen and (prefers-color-scheme:dark){{.wf{{{_variables(DARK)}}}}}"
    "@media print{.wf{print-color-adjust:exact;-webkit-print-color-adjust:exact}}"
    f"svg.wf{{background:var(--wf-bg);font-family:{FONT};font-size:12px}}"
    ".wf text{fill:var(--wf-fg)}.wf .m{fill:var(--wf-muted)}.wf .on{fill:var(--wf-on)}"
    ".wf .h{font-size:15px;font-weight:600}.wf .b{font-weight:600}.wf .e{text-anchor:end}.wf .mid{text-anchor:middle}"
    ".wf .s{font-size:10px}.wf .line{stroke:var(--wf-line);fill:none}.wf .bg{fill:var(--wf-bg)}"
)
"""The style of every picture, without what only one of them needs."""

# What XML 1.0 cannot hold, not even escaped, and the marks that turn a line around.
_UNSAFE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")


def escape(text: object) -> str:
    """Text as it can stand in SVG or HTML, in an attribute too: in ASCII, which is right in every encoding.

    Args:
        text: anybody's; what no document can hold becomes U+FFFD.
    """
    return html.escape(_UNSAFE.sub("\ufffd", str(text))).encode("ascii", "xmlcharrefreplace").decode()


def cut(text: str, most: int) -> str:
    """Text of at most so many characters; what is longer loses its middle."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def number(value: float) -> str:
    """A coordinate: a tenth of a dot is enough."""
    return f"{value:.1f}".removesuffix(".0")


def picture(
    body: str, *, name: str, width: float, height: float, title: str, description: str, style: str | None
) -> str:
    """A whole SVG element.

    Args:
        body: what is in it, escaped.
        name: makes the ids in it unique in a page; letters, digits, dashes.
        width: dots.
        height: dots.
        title: its accessible name.
        description: the same in more words.
        style: its style sheet; None if the page has it.
    """
    w, h = number(width), number(height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wf" role="img" aria-labelledby="{name}-t {name}-d"'
        f' width="{w}" height="{h}" viewBox="0 0 {w} {h}">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
        f"{'' if style is None else f'<style>{style}</style>'}{body}</svg>\n"
    )
