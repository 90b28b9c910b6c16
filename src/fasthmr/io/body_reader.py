"""The process that opens body files of strangers: limited memory, time and files, no torch.

Started by `fasthmr.io.body_files` through `fasthmr.io.isolated`.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fasthmr.errors import UnsafeFileError
from fasthmr.io.body_schema import BODY_KEYS, check_body, check_finite_matrix
from fasthmr.io.isolated import Limits, serve
from fasthmr.io.restricted_pickle import read_pickle
from fasthmr.io.safe_npz import read_npy, read_npz

MAX_FILE_BYTES = 640 * 1024**2  # SMPL-X with 400 shape components in text form
LIMITS = Limits(memory_bytes=2 * 1024**3, cpu_seconds=60, wall_seconds=90)


def read_arrays(path: Path, *, wanted: frozenset[str] | None) -> dict[str, np.ndarray]:
    """Arrays of a body or regressor file, its format told by its first bytes.

    Raises:
        UnsafeFileError: Unreadable, unsafe, too large or not a regular file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_FILE_BYTES:
            raise UnsafeFileError(
                f"{path}: {status.st_size} bytes, expected a file of 1 byte to {MAX_FILE_BYTES >> 20} MiB"
            )
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UnsafeFileError(f"{path}: cannot be read ({error.strerror})") from None
    if head.startswith(b"PK"):
        return read_npz(path, wanted=wanted)
    if head.startswith(b"\x93NUMPY"):
        return {"array": read_npy(path)}
    if head[8:9] == b"{":
        try:
            return {k: v for k, v in load_file(path).items() if wanted is None or k in wanted}
        except (SafetensorError, KeyError, TypeError, ValueError, MemoryError) as error:
            raise UnsafeFileError(
                f"{path}: not a usable safetensors file ({error}); write it again"
            ) from None
    return read_pickle(path, wanted=wanted)


def run(kind: str, source: Path, result: Path) -> dict[str, str]:
    """Read and check `source`, write what passed to `result` as safetensors, and report.

    Args:
        kind: `body` for the arrays of a body, `regressor` for one matrix.

    Returns:
        `name` of the body; empty for a regressor.
    """
    if kind == "body":
        checked = check_body(read_arrays(source, wanted=BODY_KEYS), source)
        save_file(checked.arrays, result)
        return {"name": checked.name}
    arrays = read_arrays(source, wanted=None)
    if len(arrays) != 1:
        raise UnsafeFileError(f"{source}: holds {len(arrays)} arrays, expected one regressor")
    save_file({"array": check_finite_matrix(next(iter(arrays.values())), source)}, result)
    return {"name": ""}


def main() -> None:
    """Command line: KIND SOURCE RESULT. Prints one JSON object, with `error` when the file was refused."""
    kind, source, result = sys.argv[1:]
    serve(lambda: run(kind, Path(source), Path(result)), source, limits=LIMITS, what="body file")


if __name__ == "__main__":
    main()
