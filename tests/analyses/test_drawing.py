"""Labels are drawn as they are."""

from __future__ import annotations

from pathlib import Path

import torch

from stakes.drawing import new_figure, save_figure, short, show_image


def test_a_dollar_in_a_name_is_no_mathematics(tmp_path: Path) -> None:
    """Between two of them matplotlib reads a formula, and refuses what is none."""
    figure = new_figure(2, 2)
    axis = figure.subplots()
    show_image(axis, torch.zeros(3, 4, 4), title=short("a$x_$"))
    axis.set_xticks([1], [short("$5_$")])
    save_figure(figure, tmp_path / "names.svg")
    text = (tmp_path / "names.svg").read_text(encoding="utf-8")
    assert ">a$x_$<" in text
    assert ">$5_$<" in text
