"""Folders of images that are less and less like those a model was trained on, and how far each is.

    python experiments/kinds.py --data DIR --other DIR --model CKPT --out DIR [--images 500]

OUT gets a folder for each kind of the first images of DATA's test split: as they are (`test`), without colours
(`gray`), at half the brightness (`dark`), of half the size and enlarged again (`blur`), with red and blue exchanged
(`bgr`), of the first class alone (`one`) or of the first half of them (`half`), and half of them beside as many of the
other data (`mix`); and one with images of the other data alone (`other`). `OUT/shift.json` has the shift of each
(`stakes.metrics.shift`) for the model. Each is for `stakes unlearn --unlabelled OUT/KIND`; what models keep then stands
in docs/results.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

import stakes
from stakes.data.images import ImageSet
from stakes.data.unlabelled import open_unlabelled
from stakes.files import write_json
from stakes.metrics import statistics_shift
from stakes.models.checkpoint import load_checkpoint

Change = Callable[[Image.Image], Image.Image]


def main(words: list[str] | None = None) -> None:
    given = _arguments(words)
    model, out = load_checkpoint(given.model), Path(given.out)
    own, other = (_pictures(path) for path in (given.data, given.other))
    pictures, foreign = ([picture for picture, _ in some[: given.images]] for some in (own, other))
    for name, change in CHANGES.items():
        _save(out / name, map(change, pictures))
    for name, classes in (("one", 1), ("half", len(model.class_names) // 2)):
        _save(out / name, [picture for picture, label in own if label < classes][: given.images])
    _save(out / "mix", [*pictures[: len(pictures) // 2], *foreign[: len(pictures) // 2]])
    _save(out / "other", foreign)
    shifts = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        images, _ = open_unlabelled(str(folder), None, class_names=model.class_names, size=model.input_size)
        shift = statistics_shift(model, images)[1]
        shifts[folder.name] = None if shift is None else round(shift, 4)
    write_json(out / "shift.json", shifts)
    for name, shift in sorted(shifts.items(), key=lambda one: one[1] or 0):
        print(f"{name}: {shift}")


def _halved(picture: Image.Image) -> Image.Image:
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    return half.resize(picture.size, Image.Resampling.BILINEAR)


CHANGES: dict[str, Change] = {
    "test": lambda picture: picture,
    "gray": lambda picture: picture.convert("L").convert("RGB"),
    "dark": lambda picture: picture.point([value // 2 for value in range(256)] * 3),
    "blur": _halved,
    "bgr": lambda picture: Image.merge("RGB", picture.split()[::-1]),
}


def _pictures(data: str) -> list[tuple[Image.Image, int]]:
    """The images of the test split at their own size, with their labels."""
    test = stakes.open_source(data).test
    if test is None:
        raise SystemExit(f"{data}: a test split is needed")
    return [_picture(test, row) for row in range(len(test))]


def _picture(images: ImageSet, row: int) -> tuple[Image.Image, int]:
    pixels = images.batch(slice(row, row + 1))[0].mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy()), int(images.labels[row])


def _save(folder: Path, pictures: Iterable[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row, picture in enumerate(pictures):
        picture.save(folder / f"{row:05d}.png")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--data", "--other", "--model", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--images", type=int, default=500)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
