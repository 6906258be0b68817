"""Charts: round ticks, outliers kept in sight, every model drawn and named once, labels apart."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from compress.measures.pareto import optimal
from compress.report.charts import Move, Point, Spread, floor_of, linear_ticks, log_ticks, scatter, spreads, waterfall

SVG = "{http://www.w3.org/2000/svg}"
POINTS = [
    Point("teacher", "teacher", 0.631, 93.8, 93.2, 94.4, 2_787_000),
    Point("teacher-static", "baseline", 0.224, 93.8, 93.2, 94.4, 729_000),
    Point("prune", "stage", 0.0912, 72.8, 71.7, 73.9, 397_000),
    Point("recover", "stage", 0.0906, 93.4, 92.8, 94.0, 397_000),
    Point("export", "shipped", 0.0386, 93.4, 92.8, 94.0, 113_000),
]


def drawn(points, *, width=1030, height=470):
    text = scatter(points, width=width, height=height, title="t", description="d", measure="accuracy")
    return ET.fromstring(text)


def test_the_pareto_set_is_what_no_other_model_beats():
    assert optimal([(1, -90), (2, -91), (3, -90.5), (4, -91)]) == [True, True, False, False]
    assert optimal([(1, 3, -5), (3, 1, -5), (3, 3, -5)]) == [True, True, False]
    assert optimal([(1, -5), (1, -5)]) == [True, True]
    assert optimal([]) == []


def test_every_model_is_drawn_and_named_once():
    root = drawn(POINTS)
    assert len(root.findall(f".//{SVG}circle")) == len(POINTS)
    labels = [text.text for text in root.iter(f"{SVG}text") if "label" in text.get("class", "")]
    assert sorted(labels) == sorted(["teacher", "teacher-static", "prune 72.8% ↓", "recover", "export"])


def test_faster_is_left_more_accurate_is_higher_and_areas_are_sizes():
    circles = {g.find(f"{SVG}title").text.split(":")[0]: g.find(f"{SVG}circle") for g in drawn(POINTS).iter(f"{SVG}g")}
    x, y, r = ({name: float(c.get(key)) for name, c in circles.items()} for key in ("cx", "cy", "r"))
    assert x["export"] < x["recover"] < x["teacher-static"] < x["teacher"]
    assert y["teacher"] < y["recover"] < y["prune"]
    assert (r["teacher"] / r["teacher-static"]) ** 2 == pytest.approx(2_787 / 729, rel=0.03)


@pytest.mark.parametrize(("width", "height"), [(1030, 470), (360, 400)])
def test_labels_do_not_cover_each_other(width, height):
    boxes = []
    for text in drawn(POINTS, width=width, height=height).iter(f"{SVG}text"):
        if "label" in text.get("class", ""):
            x, y = float(text.get("x")), float(text.get("y"))
            boxes.append((x, y - 11, x + 6.0 * len(text.text), y))
    for index, one in enumerate(boxes):
        assert -1 <= one[0] <= width
        for other in boxes[:index]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (one, other)


def test_a_name_in_a_chart_is_text():
    drawn([replace(POINTS[0], name='<b>&"'), *POINTS[1:]])  # parses


def test_one_model_alone_can_be_drawn():
    drawn(POINTS[:1])


def test_an_outlier_leaves_the_others_their_scale():
    assert floor_of([93.8, 93.8, 72.8, 93.4, 93.1]) == 93.1
    assert floor_of([90.0, 91.0, 92.0, 93.0]) == 90.0
    assert floor_of([50.0, 90.0]) == 50.0


def test_ticks_are_round_and_inside():
    assert log_ticks(0.03, 0.8, most=6) == [0.03, 0.05, 0.1, 0.2, 0.3, 0.5]
    assert linear_ticks(91.3, 94.6, most=5) == [92.0, 93.0, 94.0]
    assert linear_ticks(0.0, 1.0, most=5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_waterfall_goes_from_each_value_to_the_next():
    moves = [Move("a", 10.0, "10", "", None), Move("b", 4.0, "4", "-60%", True), Move("c", 5.0, "5", "+25%", False)]
    root = ET.fromstring(waterfall(moves, title="t", description="d", from_zero=True))
    bars = [(float(bar.get("x")), float(bar.get("width")), bar.get("class")) for bar in root.iter(f"{SVG}rect")]
    widths = [width - 3 for _, width, _ in bars]  # each bar is drawn 3 px wider, so that none vanishes
    assert widths[1] / widths[0] == pytest.approx(0.6, abs=0.01)
    assert widths[2] / widths[0] == pytest.approx(0.1, abs=0.01)
    assert [kind for _, _, kind in bars] == ["bar start", "bar good", "bar bad"]
    assert bars[1][0] == pytest.approx(bars[2][0], abs=0.2)


def test_a_spread_shows_the_middle_of_the_calls():
    quantiles = [1.0 + index / 20 for index in range(21)]
    rows = [Spread("m", "shipped", 1.5, quantiles, [1.4, 1.5, 1.6], ("p99", 1.99))]
    root = ET.fromstring(spreads(rows, width=1030, title="t", description="d"))
    thin, thick = (float(bar.get("width")) for bar in root.iter(f"{SVG}rect"))
    assert 0 < thick < thin
    assert len([dot for dot in root.iter(f"{SVG}circle") if dot.get("class") == "dot"]) == 3
    assert re.search("p99 1.99", "".join(root.itertext()))
