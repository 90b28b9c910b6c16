"""The process that opens mesh hierarchies of strangers: limited memory, time and files, no torch.

Started by `fasthmr.io.hierarchy_files` through `fasthmr.io.isolated`. The published files (METRO's
`mesh_downsampling.npz`) hold pickled lists of scipy matrices; only the members A, U, D and F are opened.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fasthmr.errors import UnsafeFileError
from fasthmr.io.isolated import Limits, serve
from fasthmr.io.restricted_pickle import SparseMatrix, read_object_array

WHAT = "mesh hierarchy"
MAX_FILE_BYTES = 128 * 1024**2
MAX_LEVELS, MAX_VERTICES, MAX_FACES = 8, 2**20, 2**22
MAX_JOINTS = 256
_READ_ERRORS = (
    *(OSError, ValueError, EOFError, RuntimeError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
LIMITS = Limits(memory_bytes=2 * 1024**3, cpu_seconds=60, wall_seconds=90)


def run(source: Path, result: Path) -> dict[str, int]:
    """Read and check `source`, write what passed to `result` as safetensors, and report its levels."""
    try:
        size = source.stat().st_size
        if not source.is_file() or not 0 < size <= MAX_FILE_BYTES:
            raise UnsafeFileError(f"{source}: {size} bytes, expected at most {MAX_FILE_BYTES >> 20} MiB")
        with source.open("rb") as file:
            is_archive = file.read(2) == b"PK"
    except OSError as error:
        raise UnsafeFileError(f"{source}: cannot be read ({error.strerror})") from None
    arrays = _from_published(source) if is_archive else _from_safetensors(source)
    try:
        levels = _check(arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise UnsafeFileError(f"{source}: not a usable {WHAT} ({str(error)[:200]})") from None
    save_file(arrays, result)
    return {"levels": levels}


def _from_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError, MemoryError) as error:
        raise UnsafeFileError(f"{path}: neither .npz nor a usable safetensors file ({error})") from None


def _from_published(path: Path) -> dict[str, np.ndarray]:
    """Arrays of our layout from the members of a published archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = [key for key in ("A", "U", "D", "F") if key in members]
            if missing := {"A", "U", "D"} - set(wanted):
                raise UnsafeFileError(
                    f"{path}: a {WHAT} has the members A, U and D; {', '.join(sorted(missing))} missing"
                )
            if sum(members[key].file_size for key in wanted) > MAX_FILE_BYTES:
                raise UnsafeFileError(f"{path}: unpacks to more than {MAX_FILE_BYTES >> 20} MiB")
            content = {key: _member(archive.read(members[key]), key, path) for key in wanted}
    except _READ_ERRORS as error:
        raise UnsafeFileError(f"{path}: not a usable archive ({str(error)[:200]})") from None
    try:
        return _ours(content)
    except (ValueError, TypeError, IndexError) as error:
        raise UnsafeFileError(f"{path}: not a usable {WHAT} ({str(error)[:200]})") from None


def _member(data: bytes, key: str, path: Path) -> list[np.ndarray | SparseMatrix]:
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{key} has an unknown format version")
    _, _, dtype = np.lib.format.read_array_header_1_0(file)
    if not dtype.hasobject:
        raise ValueError(f"{key} is no list of matrices")
    return read_object_array(file, key, path, WHAT)


def _ours(content: dict[str, list[np.ndarray | SparseMatrix]]) -> dict[str, np.ndarray]:
    matrices = {key: [_matrix(entry, key) for entry in content[key]] for key in ("A", "U", "D")}
    sizes = [matrix.shape[0] for matrix in matrices["A"]]
    arrays: dict[str, np.ndarray] = {"sizes": np.array(sizes, dtype=np.int64)}
    for i, matrix in enumerate(matrices["A"]):
        pairs = np.sort(np.stack([matrix.rows, matrix.columns], axis=1)[matrix.values != 0], axis=1)
        arrays[f"edges{i}"] = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).astype(np.int64)
    for i, (up, down) in enumerate(zip(matrices["U"], matrices["D"], strict=True)):
        if up.shape != (sizes[i], sizes[i + 1]) or down.shape != up.shape[::-1]:
            raise ValueError(
                f"U[{i}] is {up.shape} and D[{i}] {down.shape} between {sizes[i]} and {sizes[i + 1]} vertices"
            )
        if not np.array_equal(np.sort(down.rows), np.arange(sizes[i + 1])) or (down.values != 1).any():
            raise ValueError(f"D[{i}] does not select one vertex for each of level {i + 1}")
        arrays[f"kept{i}"] = down.columns[np.argsort(down.rows)].astype(np.int64)
        order = np.argsort(up.rows, kind="stable")
        arrays[f"up{i}.row"], arrays[f"up{i}.col"] = up.rows[order], up.columns[order]
        arrays[f"up{i}.val"] = up.values[order].astype(np.float64)
    for i, faces in enumerate(content.get("F", [])[: len(sizes)]):
        if isinstance(faces, np.ndarray) and faces.size and faces.dtype.kind in "iuf":
            arrays[f"faces{i}"] = faces.astype(np.int64)
    return {key: np.ascontiguousarray(array) for key, array in arrays.items()}


def _matrix(entry: np.ndarray | SparseMatrix, key: str) -> SparseMatrix:
    if not isinstance(entry, SparseMatrix) or entry.values.dtype.kind not in "iuf":
        raise ValueError(f"{key} holds something else than sparse matrices")
    return entry


def _check(arrays: dict[str, np.ndarray]) -> int:
    """Make sure that every index and number fits; returns the number of levels.

    Raises:
        ValueError, KeyError: Something does not.
    """
    sizes = arrays["sizes"]
    if sizes.dtype != np.int64 or sizes.ndim != 1 or not 1 <= len(sizes) <= MAX_LEVELS:
        raise ValueError(f"no list of at most {MAX_LEVELS} sizes")
    if sizes[0] > MAX_VERTICES or sizes[-1] < 1 or (np.diff(sizes) >= 0).any():
        raise ValueError(f"levels of {sizes.tolist()} vertices do not get coarser")
    known = {"sizes"}
    for i, size in enumerate(sizes):
        _check_index(arrays, f"edges{i}", (None, 2), int(size))
        known.add(f"edges{i}")
        if f"faces{i}" in arrays:
            _check_index(arrays, f"faces{i}", (None, 3), int(size))
            known.add(f"faces{i}")
    for i, (fine, coarse) in enumerate(pairwise(sizes.tolist())):
        _check_index(arrays, f"kept{i}", (coarse,), fine)
        values = arrays[f"up{i}.val"]
        _check_index(arrays, f"up{i}.row", values.shape, fine)
        _check_index(arrays, f"up{i}.col", values.shape, coarse)
        if values.dtype != np.float64 or values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError(f"up{i} holds something else than finite numbers")
        if len(np.unique(arrays[f"up{i}.row"])) != fine:
            raise ValueError(f"up{i} leaves some of {fine} vertices without a value")
        known |= {f"kept{i}", f"up{i}.row", f"up{i}.col", f"up{i}.val"}
    if "regressor" in arrays:
        regressor = arrays["regressor"]
        if regressor.ndim != 2 or regressor.shape[1] != sizes[0] or regressor.dtype != np.float64:
            raise ValueError(f"a regressor {regressor.shape} of {regressor.dtype} for {sizes[0]} vertices")
        if not 0 < len(regressor) <= MAX_JOINTS or not np.isfinite(regressor).all():
            raise ValueError(f"a regressor of {len(regressor)} joints, or of numbers that are not finite")
        known.add("regressor")
    if unknown := arrays.keys() - known:
        raise ValueError(f"unknown array {sorted(unknown)[0][:40]!a}")
    return len(sizes)


def _check_index(arrays: dict[str, np.ndarray], key: str, shape: tuple[int | None, ...], end: int) -> None:
    index = arrays[key]
    fits = len(shape) == index.ndim and all(b in (None, a) for a, b in zip(index.shape, shape, strict=True))
    if not fits or index.dtype != np.int64 or index.size > 3 * MAX_FACES:
        raise ValueError(f"{key} has the shape {index.shape} of {index.dtype}")
    if index.size and not 0 <= index.min() <= index.max() < end:
        raise ValueError(f"{key} names vertices outside 0 to {end - 1}")


def main() -> None:
    """Command line: SOURCE RESULT. Prints one JSON object, with `error` when the file was refused."""
    source, result = sys.argv[1:]
    serve(lambda: run(Path(source), Path(result)), source, limits=LIMITS, what=WHAT)
