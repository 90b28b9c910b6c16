"""Read `.npz` and `.npy` files of strangers: plain numbers and text, no more memory than the file is worth.

Imports numpy and no torch.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from fasthmr.errors import FastHMRError, UnsafeFileError

_MAX_BYTES = 2 * 1024**3
_FREE_BYTES = 256 * 1024**2  # below this any compression ratio will do
_MAX_RATIO = 100
_READ_ERRORS = (
    *(OSError, ValueError, EOFError, RuntimeError, MemoryError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(
    path: Path, *, wanted: Collection[str] | None = None, error: type[FastHMRError] = UnsafeFileError
) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` archive; Python objects are never unpickled.

    Args:
        wanted: Names to read; None for all. Other members are not opened, whatever they hold.
        error: Type of the error raised.

    Raises:
        FastHMRError: A member holds objects, declares another size than it has or is damaged; or the archive
            unpacks to over 2 GB, or to over 256 MB at more than 100 times its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if wanted is None or info.filename.removesuffix(".npy") in wanted
            }
            unpacked = sum(info.file_size for info in members.values())
            if unpacked > min(_MAX_BYTES, max(_FREE_BYTES, _MAX_RATIO * path.stat().st_size)):
                raise ValueError(f"it would unpack to {unpacked >> 20} MiB")
            return {key: _parse(archive.read(info), key) for key, info in members.items()}
    except _READ_ERRORS as problem:
        raise error(_message(path, problem)) from None


def read_npy(path: Path, *, error: type[FastHMRError] = UnsafeFileError) -> np.ndarray:
    """The array of an `.npy` file, under the rules of `read_npz`."""
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ValueError(f"it has {size >> 20} MiB")
        return _parse(path.read_bytes(), path.stem)
    except _READ_ERRORS as problem:
        raise error(_message(path, problem)) from None


def _message(path: Path, problem: Exception) -> str:
    reason = "it needs more memory than there is" if isinstance(problem, MemoryError) else str(problem)[:200]
    line = "".join(c if c.isprintable() else " " for c in reason)
    return f"{path}: not a usable NumPy file ({line}); download or write it again"


def _parse(data: bytes, key: str) -> np.ndarray:
    """One array, its header checked against the bytes that are there.

    Raises:
        ValueError: The header lies, or the array holds something else than numbers or text.
    """
    name = ascii(key[:80])
    file = io.BytesIO(data)
    read_header = _HEADER_READERS.get(np.lib.format.read_magic(file))
    if read_header is None:
        raise ValueError(f"{name} has an unknown format version")
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise ValueError(f"{name} holds {str(dtype)[:40]!a} instead of plain numbers")
    declared, present = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if min(shape, default=0) < 0 or declared != present:
        raise ValueError(f"{name} declares {declared} bytes and has {present}")
    # A view of bytes is read-only; the copy is what callers expect of a loaded array.
    array = np.frombuffer(data, dtype=dtype, offset=file.tell())
    return array.reshape(shape, order="F" if fortran else "C").copy(order="K")
