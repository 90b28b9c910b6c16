"""The process that opens body files of strangers: limited memory, time and files, no torch.

Started by `fasthmr.io.body_files`. A pickle can ask for memory or time without end with plain opcodes, which
no Python code can stop; here the operating system stops it. The limits on memory and CPU time need the
`resource` module (Linux, macOS); elsewhere only the wall-clock limit of the parent holds.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fasthmr.errors import UnsafeFileError
from fasthmr.io.body_schema import BODY_KEYS, check_body, check_finite_matrix
from fasthmr.io.restricted_pickle import read_pickle
from fasthmr.io.safe_npz import read_npy, read_npz

MAX_FILE_BYTES = 640 * 1024**2  # SMPL-X with 400 shape components in text form
_MEMORY_BYTES = 2 * 1024**3
_CPU_SECONDS = 60
_OPEN_FILES = 32


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


def limit_process() -> None:
    """Bound memory, CPU time, open files and new processes of this process, where the system allows it."""
    try:
        import resource
    except ImportError:
        return
    limits = {
        resource.RLIMIT_AS: _MEMORY_BYTES,
        resource.RLIMIT_CPU: _CPU_SECONDS,
        resource.RLIMIT_FSIZE: _MEMORY_BYTES,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(limit, (bound, bound))
        except (ValueError, OSError):
            continue  # macOS refuses some of them


def main() -> None:
    """Command line: KIND SOURCE RESULT. Prints one JSON object, with `error` when the file was refused."""
    kind, source, result = sys.argv[1:]
    limit_process()
    try:
        report = run(kind, Path(source), Path(result))
    except UnsafeFileError as error:
        report = {"error": str(error)}
    except (MemoryError, RecursionError):
        report = {"error": f"{source}: asks for more memory than a body file needs"}
    sys.stdout.write(json.dumps(report))
    sys.stdout.flush()
    os._exit(0)  # nothing of the file is left to run when objects are torn down


if __name__ == "__main__":
    main()
