"""Tables of sheets as Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Literal

from stakes.bench.published import BLOCKS
from stakes.bench.sheet import BLOCK_TITLES, Entry, Layout, Sheet

Format = Literal["markdown", "latex", "html"]


def render(found: Sequence[Sheet], layout: Layout, kind: Format) -> str:
    """All tables as one text.

    ``table2`` and ``table3``: rows are methods, columns are k, one block a figure. All others: a line for each row and
    k, the figures side by side.
    """
    body = "\n\n".join(_RENDERERS[kind](sheet, layout) for sheet in found)
    return f"{_PAGE.format(body=body)}\n" if kind == "html" else f"{body}\n"


def caption(sheet: Sheet) -> str:
    """What a reader must know to read it."""
    parts = [
        "Percent, mean ± standard deviation (n − 1) over n seeds.",
        "Bold: the highest mean among methods that forgot every image with every seed; single runs do not count where "
        "others have several.",
        "BEFORE and ORACLE are references.",
    ]
    if any(entry.unforgotten for entry in sheet.entries.values()):
        parts.append("†: not forgotten, with some seed an image to forget is still recognised.")
    if sheet.mixed_retain:
        sizes = ", ".join(map(str, sheet.mixed_retain))
        parts.append(
            f"No retain accuracy is bold at k = {sizes}: rows were measured on different samples of the retain set."
        )
    if sheet.published_title and any(entry.published is not None for entry in sheet.entries.values()):
        parts.append(f"In brackets: published for {sheet.published_title}, without spread or number of runs.")
    if sheet.failed:
        some = (
            "1 cell of this folder failed and has"
            if sheet.failed == 1
            else f"{sheet.failed} cells of this folder failed and have"
        )
        parts.append(f"{some} no record.")
    return " ".join(parts)


# A table as rows of cells: the first is the head; a row of one cell is the title of a block.
_Text = list[list[str]]


def _table(sheet: Sheet, layout: Layout, show: Callable[[Entry], str], plain: Callable[[str], str]) -> _Text:
    if not _in_blocks(layout):
        return _lines(sheet, show, plain)
    rows: _Text = [[plain("method"), *(plain(f"k = {k}") for k in sheet.k), plain("n")]]
    for block in BLOCKS:
        rows.append([plain(BLOCK_TITLES[block])])
        for row in sheet.rows:
            entries = [sheet.get(block, row, k) for k in sheet.k]
            rows.append([plain(row), *map(show, entries), plain(_numbers(entries))])
    return rows


def _in_blocks(layout: Layout) -> bool:
    return layout in ("table2", "table3")


def _lines(sheet: Sheet, show: Callable[[Entry], str], plain: Callable[[str], str]) -> _Text:
    titles = (plain(BLOCK_TITLES[block]) for block in BLOCKS)
    rows: _Text = [[plain("method"), plain("k"), *titles, plain("n")]]
    for row in sheet.rows:
        for k in sheet.k:
            entries = [sheet.get(block, row, k) for block in BLOCKS]
            if entries[0].n:
                rows.append([plain(row), plain(str(k)), *map(show, entries), plain(str(entries[0].n))])
    return rows


def _numbers(entries: Sequence[Entry]) -> str:
    """n once where it is the same in every column, else for each."""
    counts = [str(entry.n) for entry in entries]
    return counts[0] if len(set(counts)) == 1 else "/".join(counts)


def _shown(
    entry: Entry, bold: Callable[[str], str], *, sign: str = "±", dagger: str = "†", none: str = "–"
) -> str:
    if entry.mean is None:
        text = none
    else:
        text = f"{entry.mean:.2f}" + (f" {sign} {entry.std:.2f}" if entry.std is not None else "")
        text = bold(text) if entry.best else text
        text += dagger if entry.unforgotten else ""
    return text + (f" ({entry.published:.2f})" if entry.published is not None else "")


def _markdown(sheet: Sheet, layout: Layout) -> str:
    def plain(text: str) -> str:
        return text.replace("|", "\\|")

    rows = _table(sheet, layout, lambda entry: _shown(entry, lambda text: f"**{text}**"), plain)
    width = len(rows[0])
    lines = [_bar(rows[0]), _bar(["---", *["---:"] * (width - 1)])]
    for row in rows[1:]:
        lines.append(_bar([f"*{row[0]}*", *[""] * (width - 1)] if len(row) == 1 else row))
    return "\n".join([f"### {plain(sheet.title)}", "", *lines, "", caption(sheet)])


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "†": r"\dag{}",
    "–": "--",
}


def _tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex(sheet: Sheet, layout: Layout) -> str:
    def show(entry: Entry) -> str:
        return _shown(
            entry,
            lambda text: f"\\textbf{{{text}}}",
            sign=r"$\pm$",
            dagger=r"\textsuperscript{\dag}",
            none="--",
        )

    rows = _table(sheet, layout, show, _tex)
    width = len(rows[0])
    lines = [" & ".join(rows[0]) + r" \\"]
    for row in rows[1:]:
        if len(row) == 1:
            lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{row[0]}}}}} \\"]
        else:
            lines.append(" & ".join(row) + r" \\")
    if not _in_blocks(layout):
        lines.insert(1, r"\midrule")
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(sheet.title + '. ' + caption(sheet))}}}",
            rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>stakes: results</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2rem .8rem; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
thead th {{ border-bottom: 2px solid #222; }}
th[colspan] {{ font-style: italic; font-weight: normal; border-top: 1px solid #999; text-align: left; }}
caption {{ caption-side: bottom; text-align: left; padding-top: .6rem; color: #555; }}
</style>
{body}
</html>"""


def _html(sheet: Sheet, layout: Layout) -> str:
    rows = _table(sheet, layout, lambda entry: _shown(entry, lambda text: f"<b>{text}</b>"), html.escape)
    head = "".join(f'<th scope="col">{cell}</th>' for cell in rows[0])
    lines = []
    for row in rows[1:]:
        if len(row) == 1:
            lines.append(f'<tr><th colspan="{len(rows[0])}" scope="rowgroup">{row[0]}</th></tr>')
        else:
            cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
            lines.append(f'<tr><th scope="row">{row[0]}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f"<h2>{html.escape(sheet.title)}</h2>\n<table>\n<caption>{html.escape(caption(sheet))}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )


_RENDERERS: dict[Format, Callable[[Sheet, Layout], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "html": _html,
}
