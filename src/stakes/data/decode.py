"""One encoded image to 8-bit RGB pixels."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stakes.errors import DataError

# Pillow knows more, among them formats that start other programs (EPS). Forget requests come from strangers.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """Decode one image file to RGB pixels, (H, W, 3) uint8.

    - The EXIF orientation is applied, so that the pixels stand as a viewer shows them.
    - Transparent pixels are composited over white, as a page or a viewer shows them; the colour hidden under
      a fully transparent pixel is never seen by the network.
    - Greyscale is replicated to three channels; 16-bit greyscale is scaled to 8 bits; palette, CMYK and other
      modes are converted by Pillow without colour profiles.
    - Of an animation or a multi-page file the first frame counts.

    Not guaranteed: bit-equal pixels from a lossy file under another build of the JPEG library.

    Args:
        data: the bytes of the file, in one of ``FORMATS``.
        where: how messages name the image, for example ``"train row 17"``.

    Raises:
        DataError: the image is corrupt, of an unsupported kind, or larger than
            ``PIL.Image.MAX_IMAGE_PIXELS``.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("L", (4, 2), 7).save(buffer, "PNG")
        >>> decode(buffer.getvalue(), "row 0").shape
        (2, 4, 3)
    """
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            _refuse_bomb(image.size, where)
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image, where)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(where, str(error)) from error
    except Exception as error:  # a decoder fed damaged bytes may raise anything
        raise DataError(
            f"image of {where} cannot be decoded",
            expected="a whole image file (" + ", ".join(FORMATS) + ")",
            got=f"{len(data)} bytes ({type(error).__name__}: {error})",
            fix="Replace that image or leave it out.",
        ) from error


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _refuse_bomb(size: tuple[int, int], where: str) -> None:
    # Pillow only warns between one and two times its limit.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise _bomb(where, f"{size[0]} × {size[1]} pixels")


def _bomb(where: str, got: str) -> DataError:
    return DataError(
        f"image of {where} is too large",
        expected=f"at most {Image.MAX_IMAGE_PIXELS} pixels",
        got=got,
        fix="Shrink it; if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS.",
    )


def _rgb(image: Image.Image, where: str) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        wide = np.asarray(image).astype(np.int64)
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DataError(
            f"image of {where}",
            expected="8 or 16 bits a channel",
            got=f"Pillow mode {image.mode!r}, whose range is not known",
            fix="Save it as an 8-bit image.",
        )
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)
