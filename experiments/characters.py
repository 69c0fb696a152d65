"""A problem of many classes from a folder of fonts, which of 136 characters is this?, and a small model of it.

    python experiments/characters.py --fonts FONTS --out characters136

FONTS holds files that FreeType reads (ttf, otf, woff), named FAMILY-WEIGHT; `characters-fonts.txt` names those that the
records were made with, all under free licences: of the npm package `@fontsource/FAMILY` in the version that stands
there, the files `FAMILY-latin-400-normal.woff` and, where there is one, `-700-`. A fifth of the families, by seed,
makes the test split, so that no font is in both. Characters are black on white, as large beside each other as their
font sets them where they fit. Many fonts are much alike, so some images have near doubles in both splits.

Into OUT go `data` and `model`: a ResNet-10 of a third of the usual width, six epochs.
"""

from __future__ import annotations

import argparse
import io
import random
import string
from pathlib import Path

import datasets
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from stakes.data.sources import open_source
from stakes.files import writing
from stakes.models.recipe import recipe
from stakes.training import train_checkpoint

SIDE = 32
ACCENTED = "".join(chr(code) for code in range(0xC0, 0x100) if chr(code) not in "×÷")
CHARACTERS = string.digits + string.ascii_letters + ACCENTED + "&@#$%?!§€£¥©"


def drawn(file: Path) -> list[tuple[bytes, int]]:
    """PNGs of the characters that a font has, with their labels."""
    with TTFont(file) as table:
        known = set(table.getBestCmap() or ())
    font, found = ImageFont.truetype(file, SIDE), []
    for label, character in enumerate(CHARACTERS):
        if ord(character) not in known:
            continue
        left, top, right, bottom = font.getbbox(character)
        if right - left < 1 or bottom - top < 1:
            continue
        sheet = Image.new("L", (int(right - left), int(bottom - top)), 255)
        ImageDraw.Draw(sheet).text((-left, -top), character, font=font, fill=0)
        # Case shows in size: letters keep their size beside each other where they fit.
        scale = 0.75 * min(1.0, SIDE / max(sheet.size))
        sheet = sheet.resize([max(1, round(scale * side)) for side in sheet.size], Image.Resampling.LANCZOS)
        image = Image.new("RGB", (SIDE, SIDE), "white")
        image.paste(sheet.convert("RGB"), ((SIDE - sheet.width) // 2, (SIDE - sheet.height) // 2))
        image.save(buffer := io.BytesIO(), "PNG")
        found.append((buffer.getvalue(), label))
    return found


def make(fonts: Path, out: Path, seed: int) -> None:
    """Write the splits, ``train.parquet`` and ``test.parquet``."""
    files = sorted(file for file in fonts.iterdir() if file.stat().st_size)
    families = sorted({file.stem.rpartition("-")[0] for file in files})
    draws = random.Random(seed)
    tested = set(draws.sample(families, len(families) // 5))
    names = datasets.ClassLabel(names=list(CHARACTERS))
    features = datasets.Features({"image": datasets.Image(), "label": names})
    for split in ("train", "test"):
        of = [file for file in files if (file.stem.rpartition("-")[0] in tested) == (split == "test")]
        rows = [row for file in of for row in drawn(file)]
        draws.shuffle(rows)
        columns = {
            "image": [{"bytes": image, "path": None} for image, _ in rows],
            "label": [label for _, label in rows],
        }
        with writing(out / f"{split}.parquet") as new:
            datasets.Dataset.from_dict(columns, features=features).to_parquet(new)
        print(f"{split}: {len(of)} fonts, {len(rows)} images")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.fonts, arguments.out / "data", arguments.seed)
    changes = {"epochs": 6, "flip": False, "crop_padding": 2, "padding": "zeros", "plain_epochs": 1}
    record = train_checkpoint(
        open_source(str(arguments.out / "data")),
        arguments.out / "model",
        architecture="resnet10",
        options={"width": 24, "stem": "cifar-maxpool"},
        settings=recipe("own").with_overrides(changes),
        seed=arguments.seed,
    )
    print(f"test accuracy {record['history'][-1]['test_accuracy']:.2f} %")


if __name__ == "__main__":
    main()
