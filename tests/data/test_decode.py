from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.pictures import encoded, noise
from stakes.data.decode import decode
from stakes.errors import DataError


def test_colour_is_kept() -> None:
    assert np.array_equal(decode(encoded(noise(1)), "row 0"), noise(1))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_agree(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(encoded(noise(2), kind, **options), "row 0"), noise(2))


def test_jpeg_is_what_pillow_gives() -> None:
    data = encoded(noise(3), "JPEG", quality=75)
    assert np.array_equal(decode(data, "row 0"), np.asarray(Image.open(io.BytesIO(data))))


def test_greyscale_is_replicated() -> None:
    grey = noise(4)[:, :, 0]
    assert np.array_equal(decode(encoded(grey), "row 0"), np.stack([grey] * 3, axis=2))


def test_bilevel_becomes_black_and_white() -> None:
    found = decode(encoded(Image.fromarray(noise(4)[:, :, 0]).convert("1")), "row 0")
    assert set(np.unique(found)) == {0, 255}


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    wide = np.array([[0, 128, 257, 32896, 65535]], dtype=np.uint16)
    assert decode(encoded(Image.fromarray(wide)), "row 0")[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_palette_gives_its_colours() -> None:
    palette = Image.fromarray(noise(5)).quantize(16)
    assert np.array_equal(decode(encoded(palette), "row 0"), np.asarray(palette.convert("RGB")))


def test_cmyk_is_converted() -> None:
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = decode(encoded(picture, "TIFF"), "row 0")[0, 0].tolist()
    assert red > 200
    assert max(green, blue) < 60


def test_cmyk_jpeg_equals_pillow() -> None:
    data = encoded(Image.fromarray(noise(6, 16, 16)).convert("CMYK"), "JPEG")
    assert np.array_equal(decode(data, "row 0"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(mode: str) -> None:
    colour = noise(7).astype(np.float64)
    if mode == "LA":
        colour = np.repeat(colour[:, :, :1], 3, axis=2)
    alpha = noise(8)[:, :, :1]
    planes = colour[:, :, :1] if mode == "LA" else colour
    data = encoded(Image.fromarray(np.concatenate([planes, alpha], axis=2).astype(np.uint8)))
    expected = 255 + (colour - 255) * (alpha / 255.0)
    assert np.abs(decode(data, "row 0") - expected).max() <= 1


def test_opaque_alpha_changes_nothing_and_hidden_colour_is_never_seen() -> None:
    opaque = np.concatenate([noise(9), np.full((8, 8, 1), 255, np.uint8)], axis=2)
    hidden = np.concatenate([noise(9), np.zeros((8, 8, 1), np.uint8)], axis=2)
    assert np.array_equal(decode(encoded(opaque), "row 0"), noise(9))
    assert (decode(encoded(hidden), "row 0") == 255).all()


def test_transparent_palette_entry_becomes_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert decode(encoded(palette, transparency=1), "row 0")[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise by 90 degrees to view
    pixels = noise(10, 4, 6)
    found = decode(encoded(pixels, exif=exif.tobytes()), "row 0")
    assert np.array_equal(found, np.rot90(pixels, -1))


def test_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, "row 0")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        encoded(noise(1))[:60],
        encoded(noise(1, 64, 64), "JPEG")[:300],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    ],
    ids=["empty", "text", "truncated png", "truncated jpeg", "eps"],
)
def test_damaged_or_unsupported_files_are_named(data: bytes) -> None:
    with pytest.raises(DataError, match=r"image of train row 17 cannot be decoded.*bytes"):
        decode(data, "train row 17")


def test_flipped_byte_in_a_png_is_found() -> None:
    data = bytearray(encoded(noise(1)))
    data[60] ^= 0xFF
    with pytest.raises(DataError, match="row 3"):
        decode(bytes(data), "row 3")


def test_float_image_is_refused() -> None:
    picture = Image.fromarray(np.zeros((4, 4), np.float32))
    with pytest.raises(DataError, match="range is not known"):
        decode(encoded(picture, "TIFF"), "row 0")


def _header_only(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [12_000, 60_000], ids=["where Pillow warns", "where Pillow refuses"])
def test_image_bombs_are_refused_by_their_header(side: int) -> None:
    with pytest.raises(DataError, match="image of row 5 is too large"):
        decode(_header_only(side, side), "row 5")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bomb_is_refused_also_where_warnings_are_silent() -> None:
    with pytest.raises(DataError, match="too large"):
        decode(_header_only(12_000, 12_000), "row 5")
