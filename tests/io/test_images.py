"""Pictures as people have them: upright 8-bit RGB or one clear line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fasthmr.errors import FastHMRError, InputError, UsageError
from fasthmr.io.images import read_image, write_image


def _gradient(height: int = 6, width: int = 9) -> np.ndarray:
    v, u = np.mgrid[:height, :width]
    return np.stack([u * 25, v * 40, 255 - u * 20], axis=-1).astype(np.uint8)


def _png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _png16(values: np.ndarray) -> bytes:
    height, width = values.shape[:2]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[values.size // (height * width)]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return _png(width, height, 16, color, rows)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats(tmp_path: Path, suffix: str) -> None:
    picture = _gradient()
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(picture).save(tmp_path / f"a{suffix}", **options)
    result = read_image(tmp_path / f"a{suffix}")
    assert result.dtype == np.uint8 and result.flags.writeable
    np.testing.assert_array_equal(result, picture)


def test_suffix_does_not_matter(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(_gradient()).save(buffer, "PNG")
    np.testing.assert_array_equal(read_image(_write(tmp_path / "photo.jpg", buffer.getvalue())), _gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = _gradient()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),  # shown after a turn by 90 degrees clockwise
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright)


_BROKEN_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12junk"


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(_gradient(64, 64)).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12junk"
    )
    assert read_image(tmp_path / "a.jpg").shape == (64, 64, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png(tmp_path: Path, channels: int) -> None:
    values = np.linspace(0, 65535, 5 * 7 * channels).round().reshape(5, 7, channels)
    result = read_image(_write(tmp_path / "a.png", _png16(values)))
    np.testing.assert_allclose(result, np.broadcast_to(values / 257, (5, 7, 3)), atol=1)


def test_16_bit_with_alpha_lies_on_white(tmp_path: Path) -> None:
    values = np.zeros((4, 4, 4))
    values[:2, :, 3] = 65535
    result = read_image(_write(tmp_path / "a.png", _png16(values)))
    assert (result[:2] == 0).all() and (result[2:] == 255).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff(tmp_path: Path, order: str) -> None:
    values = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)
    image = Image.frombytes(
        "I;16B" if order == ">" else "I;16", (7, 5), values.astype(f"{order}u2").tobytes()
    )
    image.save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[..., 1], values / 257, atol=1)


def test_float_tiff_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="32-bit"):
        read_image(tmp_path / "a.tif")


def test_grey_palette_bilevel_and_cmyk(tmp_path: Path) -> None:
    grey = Image.fromarray(_gradient(32, 32)[..., 0])
    grey.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "grey.png"), np.repeat(np.asarray(grey)[..., None], 3, 2)
    )
    flat = np.zeros((32, 32, 3), np.uint8)
    flat[:, 16:] = (200, 30, 60)
    Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    np.testing.assert_allclose(read_image(tmp_path / "palette.png"), flat, atol=2)
    Image.fromarray(flat[..., 0] > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[0, [0, 31], 0], [0, 255])
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    np.testing.assert_allclose(read_image(tmp_path / "cmyk.jpg")[:, [4, 28]], flat[:, [4, 28]], atol=8)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([_gradient(), np.zeros((6, 9), np.uint8)])
    rgba[:3, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    result = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(result[:3], _gradient()[:3])
    assert (result[3:] == 255).all()
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.putpixel((1, 0), 1)
    indexed.save(tmp_path / "p.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), [[[10, 20, 30], [255, 255, 255]]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_thin_pictures(tmp_path: Path, shape: tuple[int, int]) -> None:
    write_image(tmp_path / "a.png", np.full((*shape, 3), 7, np.uint8))
    assert read_image(tmp_path / "a.png").shape == (*shape, 3)


def test_picture_of_40000_pixels_squared_is_refused_early(tmp_path: Path) -> None:
    rows = zlib.compressobj(9)
    line = bytes(1 + 40000 * 3)
    data = b"".join(rows.compress(line) for _ in range(400)) + rows.flush()
    path = _write(
        tmp_path / "bomb.png",
        _png(40000, 40000, 8, 2, b"")[:33] + struct.pack(">I", len(data)) + b"IDAT" + data,
    )
    program = (
        "import resource, sys, time\n"
        "from fasthmr.errors import InputError\n"
        "from fasthmr.io.images import read_image\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()\n"
        "try:\n    read_image(sys.argv[1])\n"
        "except InputError as error:\n"
        "    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024\n"
        "    print(time.perf_counter() - start, growth, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    seconds, growth_mb, message = done.stdout.strip().split(" ", 2)
    assert float(seconds) < 1
    assert float(growth_mb) < 200
    assert "bomb.png" in message and "too large" in message and "\n" not in message


def test_size_limit_is_an_option(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", _gradient())
    with pytest.raises(InputError, match=r"9x6 pixels are more than the limit"):
        read_image(tmp_path / "a.png", max_pixels=53)
    assert read_image(tmp_path / "a.png", max_pixels=54).shape == (6, 9, 3)


def test_what_is_not_a_picture(tmp_path: Path) -> None:
    gif = io.BytesIO()
    Image.fromarray(_gradient()).save(gif, "GIF")
    cases = {
        "missing.png": (None, "no such file"),
        "empty.png": (b"", "empty"),
        "text.jpg": (b"hello, this is text\n" * 20, "not a JPEG, PNG, WebP, BMP or TIFF"),
        "moving.gif": (gif.getvalue(), "not a JPEG, PNG, WebP, BMP or TIFF"),
        "film.png": (b"\0\0\0\x18ftypmp42" + bytes(100), "not a JPEG, PNG, WebP, BMP or TIFF"),
    }
    for name, (data, expected) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=expected) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole{suffix}")
    data = (tmp_path / f"whole{suffix}").read_bytes()
    for part in (3, 20, len(data) // 2):
        path = _write(tmp_path / f"part{suffix}", data[:part])
        with pytest.raises(InputError) as caught:
            read_image(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


_BYTE = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))  # where in the file, new value


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=st.lists(_BYTE, min_size=1, max_size=12))
def test_damaged_bytes_give_a_picture_or_an_input_error(
    tmp_path: Path, suffix: str, changes: list[tuple[float, int]]
) -> None:
    buffer = tmp_path / f"whole{suffix}"
    if not buffer.exists():
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(_gradient(24, 24)).save(buffer, **({} if suffix == ".bmp" else {"exif": exif}))
    data = bytearray(buffer.read_bytes())
    for place, value in changes:
        data[int(place * min(len(data), 400))] = value
    try:
        assert (
            read_image(_write(tmp_path / f"bad{suffix}", bytes(data)), max_pixels=1_000_000).dtype == np.uint8
        )
    except FastHMRError as error:
        assert isinstance(error, InputError)


def test_write_and_read_again(tmp_path: Path) -> None:
    picture = _gradient(40, 60)
    assert write_image(tmp_path / "new" / "a.PNG", picture) == tmp_path / "new" / "a.PNG"
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.PNG"), picture)
    smooth = np.repeat(np.linspace(40, 200, 64).astype(np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    write_image(tmp_path / "a.jpg", smooth)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").astype(int), smooth, atol=3)
    with pytest.raises(UsageError, match=r"\.png or \.jpg"):
        write_image(tmp_path / "a.gif", picture)
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "new"]
