"""The report's charts, each as an image of its own: what a page that is not the report can show.

The report draws them as SVG whose colours are classes of its style sheet. An image carries its own: the light colours,
and the rules for what a drawing consists of.
"""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass
from importlib import resources

FIGURE = re.compile(r'<figure class="chart">(.*?)</figure>', re.DOTALL)
CAPTION = re.compile(r"<figcaption>(.*?)</figcaption>", re.DOTALL)
DRAWING = re.compile(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>(.*?)</svg>', re.DOTALL)
LEGEND = re.compile(r'<span><i class="([\w -]*)"></i>(.*?)</span>', re.DOTALL)
TOOLTIP = re.compile(r"<title>.*?</title>", re.DOTALL)  # an image shows none
LABEL = re.compile(r'<svg[^>]*aria-label="([^"]*)"')
FIRST_RULE, LAST_RULE = ".tick {", ".heap {"  # the part of the style sheet that drawings use
MARGIN = 12.0  # px
BRIEF_WORDS = 3


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A chart: `svg` is a whole document, in light colours."""

    title: str
    svg: str

    @property
    def data_uri(self) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


def report_plots(page: str) -> list[Plot]:
    """All charts of a report's HTML, in its order."""
    return [plot for figure in FIGURE.findall(page) if (plot := _plot(figure)) is not None]


def _plot(figure: str) -> Plot | None:
    drawing = DRAWING.search(figure)
    if drawing is None:
        return None
    width, height = float(drawing[1]) + 2 * MARGIN, float(drawing[2]) + 2 * MARGIN
    legend = LEGEND.findall(figure)
    rows = "".join(
        f'<circle class="dot {style}" r="5" cx="{MARGIN + 6}" cy="{height + 16 * number}"/>'
        f'<text class="legend" x="{MARGIN + 18}" y="{height + 16 * number + 4}">{name}</text>'
        for number, (style, name) in enumerate(legend)
    )
    tall = height + (16 * len(legend) + 4 if legend else 0)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {tall:g}" width="{width:g}" height="{tall:g}">'
        f"<style>{_style()}</style>"
        f'<rect class="paper" width="100%" height="100%"/><g transform="translate({MARGIN:g},{MARGIN:g})">'
        f"{TOOLTIP.sub('', drawing[3]).strip()}</g>{rows}</svg>"
    )
    return Plot(title=_title(figure), svg=svg)


def _title(figure: str) -> str:
    """The caption; where it counts on what stands around it in the report ("True"), the drawing's own description."""
    caption, label = (
        html.unescape(found[1]).strip() if (found := part.search(figure)) else "" for part in (CAPTION, LABEL)
    )
    brief = len(caption.split()) <= BRIEF_WORDS and " against " not in label
    return label if label and (brief or not caption) else caption or "Chart"


def _style() -> str:
    sheet = resources.files("lnl_core").joinpath("report", "style.css").read_text(encoding="utf-8")
    colours = sheet[sheet.index(":root {") : sheet.index("}") + 1]
    rules = sheet[sheet.index(FIRST_RULE) : sheet.index("\n", sheet.index(LAST_RULE))]
    drawn = "\n".join(line for line in rules.splitlines() if not line.startswith((".legend", "svg [class")))
    return (
        f"{colours}\nsvg {{ font-family: system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; }}\n{drawn}\n"
        '.k { fill: var(--k); } [class^="k"] { fill: var(--k); fill-opacity: 0.8; }\n'
        '[class^="k"] path { fill: none; stroke: var(--k); stroke-width: 2; }\n'
        ".paper { fill: var(--surface); } text.legend { fill: var(--soft); font-size: 12px; }"
    )
