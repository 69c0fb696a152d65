"""Image-to-image retrieval in feature space: does an image still find its own class? (paper section 4.2, Fig. 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.analyses.context import SIDES, TITLES, Context, SetName, Side
from stakes.analyses.retrieval_rows import Row, draw_rows
from stakes.data.images import ImageSet
from stakes.drawing import GREY, HATCH, INK, new_figure, save_figure
from stakes.errors import DataError
from stakes.report.section import Figure, Section, Table

RANKS = (1, 5, 10)
# Bytes a cosine costs while a block is ranked: float64, two index tensors, counts, precisions.
_BYTES = 48


@dataclass(frozen=True)
class Found:
    """What a search found, query by query.

    Attributes:
        hits: (q, 3) whether an image of the query's class is among the first 1, 5, 10.
        precision: (q,) average precision in [0, 1]; NaN where the gallery has no image of that class.
        neighbours: (q, n) positions of the first n in the gallery; −1 where the gallery has fewer.
    """

    hits: Tensor
    precision: Tensor
    neighbours: Tensor

    @property
    def answerable(self) -> Tensor:
        """(q,) whether the gallery has an image of the query's class."""
        return ~self.precision.isnan()

    def percent(self) -> dict[str, float | None]:
        """R@1, R@5, R@10 and mAP in percent over the answerable queries; None where there are none."""
        some = self.answerable
        if not bool(some.any()):
            return dict.fromkeys(("r1", "r5", "r10", "map"))
        means = [*self.hits[some].double().mean(dim=0).tolist(), float(self.precision[some].mean())]
        return {name: 100 * mean for name, mean in zip(("r1", "r5", "r10", "map"), means, strict=True)}


def search(
    queries: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    itself: Tensor | None = None,
    neighbours: int = 5,
    block_bytes: int = 64 * 1024**2,
) -> Found:
    """Rank the whole gallery for each query by the cosine of features; exact, in blocks of queries.

    R@k is the share of queries with an image of their class among the first k. The average precision of a query with
    m matches at ranks r_1 < … < r_m is 1/m Σ_j j/r_j. Equal cosines are ranked by place in the gallery.

    Args:
        queries, gallery: features (q, d) and (g, d), of any scale.
        query_labels, gallery_labels: (q,) and (g,) integers.
        itself: (q,) place of each query in the gallery, where it is not a result; −1 where it is not there.
        neighbours: how many places to keep for each query.
        block_bytes: memory of one block; at least one query is ranked at a time.

    Raises:
        DataError: shapes that do not fit, or an empty gallery.

    Example:
        >>> found = search(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 0]))
        >>> found.hits[:, 0].tolist(), found.answerable.tolist()
        ([True, False], [True, False])
    """
    _check(queries, gallery, query_labels, gallery_labels)
    places = torch.full((len(queries),), -1) if itself is None else itself
    rows = max(1, block_bytes // (_BYTES * len(gallery)))
    unit = F.normalize(gallery.double(), dim=1)
    parts = zip(queries.split(rows), query_labels.split(rows), places.split(rows), strict=True)
    found = [
        _block(F.normalize(q.double(), dim=1) @ unit.T, y, gallery_labels, at, neighbours)
        for q, y, at in parts
    ]
    hits, precision, nearest = (torch.cat(column) for column in zip(*found, strict=True))
    return Found(hits, precision, nearest)


def _block(
    cosines: Tensor, labels: Tensor, gallery_labels: Tensor, itself: Tensor, neighbours: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Hits, average precision and nearest places of a few queries."""
    there = (itself >= 0).nonzero().flatten()
    cosines[there, itself[there]] = -torch.inf  # ranked last, and no match there
    order = cosines.argsort(dim=1, descending=True, stable=True)
    match = gallery_labels[order] == labels[:, None]
    match[there, -1] = False
    count = match.cumsum(dim=1)
    ranks = torch.arange(1, match.shape[1] + 1)
    precision = (match * count.double() / ranks).sum(dim=1) / count[:, -1]
    hits = torch.stack([match[:, :k].any(dim=1) for k in RANKS], dim=1)
    nearest = torch.full((len(labels), neighbours), -1)
    kept = order[:, :neighbours].clone()
    if kept.shape[1] == match.shape[1]:
        kept[there, -1] = -1
    nearest[:, : kept.shape[1]] = kept
    return hits, precision, nearest


def _check(queries: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> None:
    fits = queries.ndim == gallery.ndim == 2 and queries.shape[1] == gallery.shape[1]
    if not fits or query_labels.shape != queries.shape[:1] or gallery_labels.shape != gallery.shape[:1]:
        shapes = [tuple(one.shape) for one in (queries, gallery, query_labels, gallery_labels)]
        raise DataError("retrieval", expected="features (q, d), (g, d), labels (q,), (g,)", got=str(shapes))
    if not len(queries) or not len(gallery):
        raise DataError(
            "retrieval", expected="queries and a gallery", got=f"{len(queries)} and {len(gallery)}"
        )


@dataclass(frozen=True)
class _Case:
    """One case of the analysis: whose images ask."""

    name: SetName
    images: ImageSet
    rows: Tensor
    found: dict[Side, Found]


def analysis(context: Context) -> Section:
    """R@1, R@5, R@10 and mAP before and after, over the retained gallery: (i) retained, (ii) forgotten queries."""
    name, gallery = context.first_of("retain", "test", why="a retrieval needs a gallery")
    _, forget = context.first_of("forget", why="its images are the queries")
    cases = [_case(context, name, gallery, name, gallery), _case(context, "forget", forget, name, gallery)]
    figures = [_bars(context, cases)]
    for case in cases:
        figures.append(_pictures(context, case, gallery))
    shown = {f"{side} {case.name}": case.found[side].percent() for case in cases for side in SIDES}
    numbers: dict[str, float | int | None] = {"gallery_images": len(gallery)}
    for case in cases:
        who = TITLES[case.name]
        numbers[f"{who}_queries"] = int(case.found["after"].answerable.sum())
        for side in SIDES:
            numbers |= {f"{who}_{k}_{side}_percent": v for k, v in shown[f"{side} {case.name}"].items()}
    kept = "Retained" if name == "retain" else "Test"
    return Section(
        name="retrieval",
        title="Retrieval",
        sentence=f"{kept} images find one of their class first in {_text(shown[f'after {name}']['r1'])} of cases "
        f"({_text(shown[f'before {name}']['r1'])} before); forgotten images in {_text(shown['after forget']['r1'])} "
        f"({_text(shown['before forget']['r1'])} before), where lower is better.",
        limit="A match is an image of the same class, by the cosine of features; other features of the network may "
        "still tell, and a forgotten image that finds another class is not thereby unrecognisable."
        + ("" if name == "retain" else " There is no retain set here: test images stand in for it."),
        numbers=numbers,
        tables=(_table(cases, shown),),
        figures=tuple(figures),
        settings={
            "gallery": f"{len(gallery)} {TITLES[name]} images",
            "most queries of a case": context.settings.queries,
            "ranked by": "cosine of deployed features, exact",
            "query itself": "not among the results",
            "seed": context.settings.seed,
        },
    )


def _case(
    context: Context, name: SetName, images: ImageSet, gallery_name: SetName, gallery: ImageSet
) -> _Case:
    rows = context.draw(len(images), context.settings.queries, "queries", name)
    found = {
        side: search(
            context.outputs(side, name).features[rows],
            context.outputs(side, gallery_name).features,
            images.labels[rows],
            gallery.labels,
            itself=rows if name == gallery_name else None,
            neighbours=context.settings.neighbours,
            block_bytes=context.settings.block_bytes,
        )
        for side in SIDES
    }
    return _Case(name, images, rows, found)


def _text(percent: float | None) -> str:
    return "unknown" if percent is None else f"{percent:.1f} %"


def _table(cases: list[_Case], shown: dict[str, dict[str, float | None]]) -> Table:
    rows = [
        (f"{TITLES[case.name]} queries, {side}", *shown[f"{side} {case.name}"].values())
        for case in cases
        for side in SIDES
    ]
    return Table(
        caption="Percent. Retained queries: higher is better; forgotten queries: lower is better.",
        columns=("queries", "R@1", "R@5", "R@10", "mAP"),
        rows=tuple(rows),
    )


def _bars(context: Context, cases: list[_Case]) -> Figure:
    figure = new_figure(7, 3.0)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, case in zip(axes, cases, strict=True):
        for offset, side in zip((-0.2, 0.2), SIDES, strict=True):
            heights = [
                float("nan") if value is None else value for value in case.found[side].percent().values()
            ]
            bars = axis.bar(
                [at + offset for at in range(4)],
                heights,
                width=0.38,
                color=INK[side],
                hatch=HATCH[side],
                edgecolor="white",
                label=side,
            )
            axis.bar_label(bars, fmt="%.0f", fontsize=7, color=GREY)
        better = "lower is better" if case.name == "forget" else "higher is better"
        axis.set_title(f"{TITLES[case.name]} queries ({better})", fontsize=9)
        axis.set_xticks(range(4), ["R@1", "R@5", "R@10", "mAP"])
        axis.set_ylim(0, 108)
    axes[0].set_ylabel("percent")
    handles, titles = axes[0].get_legend_handles_labels()
    figure.legend(handles, titles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    file = save_figure(figure, context.folder / "retrieval-scores.svg")
    return Figure(
        file=file,
        alt="Bars of R@1, R@5, R@10 and mAP before and after, for retained and for forgotten queries; "
        "the table holds the same values.",
        caption="Retrieval before and after.",
    )


def _pictures(context: Context, case: _Case, gallery: ImageSet) -> Figure:
    """Some queries with their first results before and after."""
    chosen = context.draw(len(case.rows), context.settings.examples, "retrieval rows", case.name)
    rows = [
        Row(
            case.images.subset(case.rows[[at]]),
            {side: gallery.subset(_there(case.found[side].neighbours[at])) for side in SIDES},
        )
        for at in chosen.tolist()
    ]
    forgotten = case.name == "forget"
    file = draw_rows(rows, context.folder / f"retrieval-{TITLES[case.name]}.png", context.settings.neighbours)
    wrong = sum(
        int((found.labels != row.query.labels).sum()) for row in rows for found in [row.results["after"]]
    )
    total = sum(len(row.results["after"]) for row in rows)
    return Figure(
        file=file,
        alt=f"{len(rows)} {TITLES[case.name]} query images, each with its {context.settings.neighbours} nearest "
        f"images before and after; after, {wrong} of {total} are of another class.",
        caption=f"Nearest images of {TITLES[case.name]} queries: ✓ the query's class, ✗ another.",
        personal=forgotten,
    )


def _there(places: Tensor) -> Tensor:
    return places[places >= 0]
