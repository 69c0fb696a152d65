"""Curves: their data, and SVG that fits into a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from stakes.report import curves
from stakes.report.curves import Curve, accuracy_points, accuracy_svg, loss_curves, loss_svg
from stakes.report.pictures import unique_ids

HISTORY = [
    {"step": 1.0, "loss": 2.0, "loss_del": 1.0},
    {"step": 2.0, "loss": 1.0, "loss_del": 0.5, "forget_accuracy": 50.0},
    {"step": 3.0, "loss": 0.5, "loss_reg": 0.1, "forget_accuracy": 0.0},
]


def test_points_are_the_history_and_nothing_else() -> None:
    assert accuracy_points(HISTORY) == [(2, 50), (3, 0)]
    assert accuracy_points(HISTORY, 100.0) == [(0, 100), (2, 50), (3, 0)]
    assert accuracy_points([], 100.0) == [], "no step was taken: there is no curve"
    lines = {curve.label: curve.points for curve in loss_curves(HISTORY)}
    assert lines == {"total": [(1, 2), (2, 1), (3, 0.5)], "del": [(1, 1), (2, 0.5)], "reg": [(3, 0.1)]}


def test_a_drawing_is_xml_in_the_colours_of_the_page() -> None:
    svg = loss_svg(loss_curves(HISTORY), "x-")
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "<style" not in svg, "a style element would rule the whole page"
    assert not re.search(r"#0102[0-9a-f]{2}", svg), "every stand-in became a variable"
    assert {"var(--series-1)", "var(--series-2)", "var(--soft)"} <= set(re.findall(r"var\([^)]*\)", svg))
    assert all(name.startswith("x-") for name in re.findall(r'id="([^"]*)"', svg))
    referred = set(re.findall(r'(?:url\(|href=")#([^)"]*)', svg))
    assert referred <= set(re.findall(r'id="([^"]*)"', svg))
    assert svg == loss_svg(loss_curves(HISTORY), "x-")


def test_labels_are_text_not_mathematics_nor_markup() -> None:
    svg = accuracy_svg([Curve("A a$_x$<b>", [(0, 1), (1, 0)]), Curve("B", [(0, 1)])], "y-")
    texts = [node.text for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]
    assert "A a$_x$<b>" in texts


def test_nothing_measured_nothing_drawn() -> None:
    assert accuracy_svg([], "a-") == accuracy_svg([Curve("A", [])], "a-") == loss_svg([], "a-") == ""


def test_long_histories_are_thinned_and_keep_their_ends() -> None:
    points = [(float(i), float(i % 7)) for i in range(100_001)]
    kept = curves._thinned(points)
    assert len(kept) <= 802
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert curves._thinned(points[:5]) == points[:5]


def test_more_lines_than_styles() -> None:
    lines = [Curve(f"run {i}", [(0, 100), (5, i)]) for i in range(14)]
    assert accuracy_svg(lines, "z-").count("run ") == 14


def test_ids_and_what_refers_to_them_move_together() -> None:
    svg = '<g id="a"><use xlink:href="#a"/><path clip-path="url(#a)"/></g>'
    assert unique_ids(svg, "p-") == '<g id="p-a"><use xlink:href="#p-a"/><path clip-path="url(#p-a)"/></g>'
