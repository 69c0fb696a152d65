"""Figures of a section as parts of a page: inside it, or left out with the reason."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from stakes.report.section import Figure

_PNG = b"\x89PNG\r\n\x1a\n"
_WIDE = 1.9


@dataclass(frozen=True)
class Picture:
    """One figure: a data URI, or None and why it is absent; ``wide`` ones deserve a row of their own."""

    alt: str
    caption: str
    source: str | None
    absent: str = ""
    wide: bool = False


def picture(folder: Path, figure: Figure, *, embed_images: bool = False) -> Picture:
    """Read a figure that stands in ``folder``.

    An SVG becomes the source of an ``<img>``, never part of the page: a browser runs no script of such a
    picture and fetches nothing for it, whoever wrote the file.

    Args:
        embed_images: also take figures that show images of the forget set.
    """

    def absent(why: str) -> Picture:
        return Picture(figure.alt, figure.caption, None, why)

    if figure.personal and not embed_images:
        return absent("it shows images of the forget set, which may be personal data")
    if Path(figure.file).name != figure.file:
        return absent("its file is not in the folder of the section")
    try:
        data = (folder / figure.file).read_bytes()
    except OSError:
        return absent(f"its file {figure.file} is missing")
    kind = _kind(data)
    if kind is None:
        return absent(f"its file {figure.file} is neither SVG nor PNG")
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(figure.alt, figure.caption, source, wide=_aspect(data) > _WIDE)


def unique_ids(svg: str, prefix: str) -> str:
    """An SVG of our own whose ids, and what refers to them, start with ``prefix``: one page holds many.

    Example:
        >>> unique_ids('<path id="a"/><use href="#a"/><g clip-path="url(#a)"/>', "x-")
        '<path id="x-a"/><use href="#x-a"/><g clip-path="url(#x-a)"/>'
    """
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    return re.sub(r"url\(#", f"url(#{prefix}", svg)


def _kind(data: bytes) -> str | None:
    if data.startswith(_PNG):
        return "image/png"
    return "image/svg+xml" if b"<svg" in data[:4096] else None


def _aspect(data: bytes) -> float:
    """Width by height, where the file says it; else 1."""
    if data.startswith(_PNG):
        width, height = (float(side) for side in struct.unpack(">II", data[16:24].ljust(8, b"\0")))
    else:
        box = re.search(rb'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', data[:4096])
        width, height = (float(side) for side in box.groups()) if box else (1.0, 1.0)
    return width / height if height else 1.0
