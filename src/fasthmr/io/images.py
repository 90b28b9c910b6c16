"""Pictures: any JPEG, PNG, WebP, BMP or TIFF to 8-bit RGB, and back to PNG or JPEG."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fasthmr.errors import InputError, UsageError
from fasthmr.io.atomic import write_bytes
from fasthmr.io.files import require_file

# By content, never by suffix; every other decoder of Pillow stays shut.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_SAVE_OPTIONS = {
    ".png": ("PNG", {"compress_level": 4}),
    ".jpg": ("JPEG", {"quality": 92}),
    ".jpeg": ("JPEG", {"quality": 92}),
}
# What Pillow raises on damaged data, beside OSError.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, OverflowError),
    *(struct.error, IndexError, KeyError, TypeError),
)


def read_image(path: str | Path, max_pixels: int = 100_000_000) -> UInt8[np.ndarray, "height width 3"]:
    """Reads a picture as it is meant to be seen: upright (EXIF applied), 8-bit RGB.

    16-bit values are scaled to 8 bits, CMYK, grey and palette pictures become RGB, transparent parts
    are laid on white. Of several pages or frames the first is read.

    Args:
        max_pixels: Limit on width times height, checked before anything is decoded. Pillow itself
            refuses more than 178 million.

    Raises:
        InputError: the file is missing, empty, damaged, too large, or not such a picture.
    """
    path = Path(path)
    require_file(path, "picture")
    with warnings.catch_warnings():
        # Doubts about metadata, and a second size limit that is lower than ours.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=_FORMATS) as image:
                _check_size(path, image.size, max_pixels)
                image.load()
                return _to_rgb(path, _upright(image))
        except Image.DecompressionBombError as error:
            raise InputError(f"{path}: the picture is too large ({error}); scale it down first") from error
        except UnidentifiedImageError as error:
            wanted = "a JPEG, PNG, WebP, BMP or TIFF picture"
            raise InputError(f"{path}: not {wanted}, or its start is damaged; convert it first") from error
        except MemoryError as error:
            raise InputError(f"{path}: too little memory for this picture; scale it down first") from error
        except _DAMAGED as error:
            raise InputError(
                f"{path}: the picture is truncated or damaged ({error}); copy it anew"
            ) from error


def read_exif(path: str | Path) -> tuple[Mapping[int, object], tuple[int, int]]:
    """The tags of the Exif IFD as they stand in the file, and width and height as stored (not turned).

    Tags that cannot be read are left out; a file that is no picture has none, and size (0, 0).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=_FORMATS) as image:
                size = image.size
                try:
                    return dict(image.getexif().get_ifd(ExifTags.IFD.Exif)), size
                except _DAMAGED:
                    return {}, size
        except (Image.DecompressionBombError, MemoryError, *_DAMAGED):
            return {}, (0, 0)


def write_image(path: str | Path, rgb: UInt8[np.ndarray, "height width 3"]) -> Path:
    """Writes a .png or .jpg file, complete or not at all.

    Raises:
        UsageError: another suffix.
        ResourceError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _SAVE_OPTIONS:
        raise UsageError(
            f"{path}: pictures are written as .png or .jpg, not {path.suffix or 'without a suffix'}"
        )
    file_format, options = _SAVE_OPTIONS[path.suffix.lower()]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, file_format, **options)
    return write_bytes(path, buffer.getvalue())


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InputError(
            f"{path}: {width}x{height} pixels are more than the limit of {max_pixels / 1e6:g} million; "
            "scale the picture down first"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turns the picture as its EXIF orientation says; damaged EXIF data counts as none."""
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED:
        return image


def _to_rgb(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InputError(f"{path}: 32-bit pictures have no fixed white level; save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))
