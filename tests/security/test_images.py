"""Images from strangers: bombs are refused by their header, with the row, and no link or path leads elsewhere."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image

from stakes.data import open_source
from stakes.errors import DataError

SIDE = 60_000


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "BMP")
    raw = bytearray(buffer.getvalue())
    raw[18:26] = struct.pack("<ii", width, height)
    return bytes(raw)


def gif(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "GIF")
    raw = bytearray(buffer.getvalue())
    raw[6:10] = struct.pack("<HH", width, height)
    return bytes(raw)


def ppm(width: int, height: int) -> bytes:
    return f"P6\n{width} {height}\n255\n".encode() + bytes(100)


def text_bomb(width: int, height: int) -> bytes:
    """A small picture whose comment unpacks to 200 MB."""
    raw = png(4, 4)
    body = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return raw[:33] + chunk + raw[33:]


def folder_with(root: Path, data: bytes, suffix: str) -> Path:
    place = root / "train" / "cat"
    place.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(place / "0.png")
    (place / f"1.{suffix}").write_bytes(data)
    return root


@pytest.mark.parametrize(
    ("make", "suffix"), [(png, "png"), (bmp, "bmp"), (gif, "gif"), (ppm, "ppm"), (text_bomb, "png")]
)
def test_a_bomb_is_refused_with_its_row_before_it_goes_off(tmp_path, make, suffix):
    data = make(SIDE, SIDE)
    source = open_source(folder_with(tmp_path, data, suffix))
    assert source.train is not None
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"train row 1 \(cat/1\.{suffix}\)"):
        source.train.batch([0, 1])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 80e6


@pytest.mark.parametrize("make", [png, bmp, gif, ppm])
def test_the_message_says_how_large(tmp_path, make):
    source = open_source(folder_with(tmp_path, make(SIDE, SIDE), "png"))
    with pytest.raises(DataError, match=r"too large: expected at most \d+ pixels"):
        source.train.batch([1])


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    root = folder_with(tmp_path / "data", png(4, 4), "png")
    (root / "train" / "cat" / "2.png").symlink_to(secret)
    with pytest.raises(DataError, match=r"2\.png leads out of"):
        open_source(root)


@pytest.mark.parametrize("path", ["../secret.png", "{outside}/secret.png", "sub/../../secret.png"])
def test_a_path_in_a_table_that_leads_out_is_refused(tmp_path, path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "data" / "sub").mkdir(parents=True)
    rows = {"image": [{"bytes": None, "path": path.format(outside=tmp_path)}], "label": [0]}
    pq.write_table(pa.table(rows), tmp_path / "data" / "train.parquet")
    with pytest.raises(DataError, match=r"leads out of"):
        open_source(tmp_path / "data")


def test_a_part_of_a_checkpoint_outside_its_folder_is_refused(tmp_path):
    import json

    from stakes.errors import CheckpointError
    from stakes.models import load_checkpoint

    (tmp_path / "model").mkdir()
    (tmp_path / "other.safetensors").write_bytes(b"x")
    index = {"weight_map": {"a": "../other.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="a file beside the index"):
        load_checkpoint(tmp_path / "model")
