"""The report's charts as images that stand alone."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

from tasks.report_plots import report_plots

FIGURE = """
<figure class="chart">
  <figcaption>Which are wrong &amp; found</figcaption>
  <svg viewBox="0 0 100.5 60" role="img" aria-label="not the title">
    <path class="line s-after" d="M0,0 L9,9"><title>a &lt; b</title></path>
  </svg>
  <p class="legend"><span><i class="s-after"></i>by suspicion</span><span><i class="s-chance"></i>at random</span></p>
</figure>
"""


def test_a_chart_is_a_whole_svg_document() -> None:
    [plot] = report_plots(f"<html>{FIGURE}<figure>no chart</figure></html>")
    assert plot.title == "Which are wrong & found"
    document = ElementTree.fromstring(plot.svg)
    assert document.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(document.attrib["width"]) > 100.5
    texts = [element.text for element in document.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["by suspicion", "at random"], "the legend is drawn, for outside the report no page shows it"


def test_colours_come_with_it() -> None:
    [plot] = report_plots(FIGURE)
    assert ".line.s-after { stroke: var(--good); }" in plot.svg
    assert "--good: #" in plot.svg
    assert base64.b64decode(plot.data_uri.partition(",")[2]).decode() == plot.svg


def test_a_brief_caption_gives_way_to_the_description() -> None:
    [plot] = report_plots(FIGURE.replace("Which are wrong &amp; found", "True").replace("not the title", "A matrix"))
    assert plot.title == "A matrix"
