"""Reads the arrays of an untrusted .npz: no pickles, and no more memory than the file is worth."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fasthmr.errors import FastHMRError, InputError

_MEMBER_BYTES = 2 << 30
_FREE_BYTES = 256 << 20  # below this any compression ratio will do
_RATIO = 100
_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, SyntaxError, NotImplementedError)


def read_members(path: str | Path, error: type[FastHMRError] = InputError) -> dict[str, np.ndarray]:
    """All arrays of the file by name.

    Each header is read before its data: object arrays, arrays that declare more than the member holds,
    members above 2 GB and archives that unpack to over 256 MB at more than 100 times their size are
    refused.

    Raises:
        FastHMRError: of the type `error`; the file is missing, damaged or refused.
    """
    path = Path(path)
    if not path.is_file():
        raise error(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            unpacked = sum(info.file_size for info in infos)
            if unpacked > max(_FREE_BYTES, _RATIO * path.stat().st_size):
                raise error(f"{path}: unpacks to {unpacked >> 20} MB, over {_RATIO} times its size; refused")
            return {info.filename[:-4]: _read_member(path, archive, info, error) for info in infos}
    except _DAMAGED as damage:
        raise error(f"{path}: not a readable .npz file ({damage}); write it anew") from damage


def _read_member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, error: type[FastHMRError]
) -> np.ndarray:
    if info.file_size > _MEMBER_BYTES:
        raise error(f"{path}: '{info.filename}' is larger than 2 GB; refused")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise error(f"{path}: '{info.filename}' has array format {version}, 1.0 and 2.0 are known")
        shape, _, dtype = read_header(member)
    if dtype.hasobject:
        raise error(f"{path}: '{info.filename}' holds Python objects, which are never loaded")
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise error(f"{path}: '{info.filename}' declares shape {shape}, more than it holds")
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
