"""The parts of evaluate.py's report: plots, curves and the page."""

import math
import re
from xml.etree import ElementTree

import pytest

from experiments.shared.curves import read_curve
from experiments.shared.evaluated_text import EvaluatedText
from experiments.shared.evaluations import spread
from experiments.shared.report import visible
from experiments.shared.svg import Series, heat_map, line_chart, short_number, ticks


def parsed(picture):
    return ElementTree.fromstring(picture)


def circles(picture):
    return [(float(c.get("cx")), float(c.get("cy"))) for c in parsed(picture).iter("circle")]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1_420_645, [0, 500_000, 1_000_000, 1_500_000]),
        (-0.15, 0.3, [-0.2, -0.1, 0, 0.1, 0.2, 0.3]),
        (3, 3, [3, 4, 5, 6]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_are_round_and_hold_the_range(low, high, expected):
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert found == pytest.approx(expected)


def test_numbers_are_short():
    assert [short_number(number) for number in (0, 0.25, 999, 1500, 2_000_000, 3.1e9, -1500)] == [
        *("0", "0.25", "999", "1.5k", "2M", "3.1G", "-1.5k"),
    ]


def test_points_stand_where_their_numbers_say():
    points = [(0.0, 1.0), (50.0, 3.0), (100.0, 2.0), (math.nan, 1.0), (10.0, math.inf)]
    picture = line_chart(
        [Series(name="a", points=points, colour=0, marked=True)], x_label="x", y_label="y"
    )
    (x0, y0), (x1, y1), (x2, y2) = circles(picture)  # what is not finite is left out
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1)
    assert x0 < x1 < x2
    # downwards in SVG: 3 is the highest, 2 half way between
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert y1 < y2 < y0
    titles = [title.text for title in parsed(picture).iter("title")]
    assert titles == ["a: 1 at 0 x", "a: 3 at 50 x", "a: 2 at 100 x"]


def test_many_points_are_thinned_to_means():
    series = Series(name="a", points=[(i, i % 2) for i in range(100_000)], colour=0)
    picture = line_chart([series], x_label="x", y_label="y")
    (line,) = [path for path in parsed(picture).iter("path") if path.get("class") == "line"]
    heights = [float(pair.split()[1]) for pair in line.get("d")[1:].split("L")]
    assert len(heights) < 5000
    # halfway, but for the few at a column's edge
    assert min(heights[1:-1]) > 100
    assert max(heights[1:-1]) < 160


def test_a_chart_of_nothing_says_so():
    with pytest.raises(ValueError, match="nothing to draw of loss"):
        line_chart([Series(name="a", points=[], colour=0)], x_label="x", y_label="loss")


def test_a_heat_map_has_a_cell_for_each_number_above_zero():
    weights = [[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]]
    picture = parsed(heat_map(weights, ["<a>", "b&", "в"], title="head 0"))
    cells = {
        path.get("opacity"): path.get("d").count("M")
        for path in picture.iter("path")
        if path.get("class") == "cells"
    }
    assert cells == {"1": 1, "0.5": 3, "0.25": 2}
    labels = [text.text for text in picture.iter("text")]
    assert labels == ["<a>", "<a>", "b&", "b&", "в", "в"]


def test_labels_are_visible():
    assert visible(" кошка\n") == "␣кошка↵"
    assert visible("a" * 20) == "a" * 11 + "…"


def test_time_is_that_of_the_steps():
    curve = read_curve(
        [
            {"step": 0, "tokens": 0, "prompt": "a", "sample": "b"},
            {"step": 1, "tokens": 100, "loss": 3.0, "tokens_per_second": 50.0},
            {"step": 1, "tokens": 100, "validation_loss": 3.5},
            {"step": 2, "tokens": 300, "loss": 2.0, "tokens_per_second": 100.0},
        ]
    )
    assert curve.training == ((100, 2.0, 3.0), (300, 4.0, 2.0))
    assert curve.validation == ((100, 2.0, 3.5),)


def test_layers_are_spread():
    assert spread(3, 4) == [0, 1, 2]
    assert spread(12, 4) == [0, 4, 7, 11]


def test_a_text_is_measured_in_parts_or_whole():
    whole = EvaluatedText.of("a", ["", "Кошка", "cat"], beginning=3)
    parts = EvaluatedText.of("a", [[""], ["Ко", "шка"], ["c", "a", "t"]], beginning=3)
    assert (whole.num_documents, whole.num_bytes, whole.beginning) == (3, 13, "Кош")
    assert (whole.sha256, whole.beginning) == (parts.sha256, parts.beginning)
    assert whole.sha256 != EvaluatedText.of("a", ["", "Кош", "каcat"], beginning=3).sha256
    with pytest.raises(ValueError, match="no text to evaluate on"):
        EvaluatedText.of("a", ["", ""], beginning=3)


def test_the_style_sheet_loads_nothing():
    from experiments.shared.report import STYLE

    assert not re.search(r"url\(|@import|https?:", STYLE.read_text("utf-8"))
