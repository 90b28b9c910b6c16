"""Files of strangers are opened in a process of their own, with limits on memory, time and files.

A pickle can ask for memory or time without end with plain opcodes, which no Python code can stop; here the
operating system stops it. The limits on memory and CPU time need the `resource` module (Linux, macOS);
elsewhere only the wall-clock limit of the parent holds. This module imports neither numpy nor torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fasthmr.errors import ResourceError, UnsafeFileError

_BOOT = (
    "import importlib, sys; sys.path += sys.argv.pop(1).split({sep!r}); "
    "importlib.import_module(sys.argv.pop(1)).main()"
)
_SINGLE_THREADED = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_OPEN_FILES = 32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What reading one file may take."""

    memory_bytes: int
    cpu_seconds: int
    wall_seconds: float | int


def read_isolated(
    reader: str,
    path: Path,
    arguments: Sequence[str],
    *,
    limits: Limits,
    what: str,
    packages: Sequence[ModuleType] = (),
) -> dict[str, Any]:
    """Run `main()` of the module `reader` in a limited process and return what it reports.

    Args:
        path: The file that is read; named in errors.
        arguments: Command line of the process; it runs in an empty folder that is removed afterwards.
        what: "a body file", for messages.
        packages: What the process imports besides fasthmr and the standard library.

    Raises:
        UnsafeFileError: The process refused the file, or broke one of its limits.
        ResourceError: It could not run (memory or disk is full).
    """
    # The isolated interpreter ignores PYTHONPATH and user folders, so it is told where these packages are.
    places = [Path(__file__).parents[1], *(Path(str(package.__file__)).parent for package in packages)]
    roots = os.pathsep.join(dict.fromkeys(str(place.parent) for place in places))
    command = [sys.executable, "-I", "-B", "-c", _BOOT.format(sep=os.pathsep), roots, reader, *arguments]
    with tempfile.TemporaryDirectory(prefix="fasthmr-") as folder:
        try:
            process = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd=folder,
                env={**os.environ, **_SINGLE_THREADED},
                timeout=limits.wall_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnsafeFileError(
                f"{path}: not read within {limits.wall_seconds:g} s; no {what} needs that long"
            ) from None
        except OSError as error:
            raise ResourceError(f"{path}: the reading process did not start ({error.strerror})") from None
    if process.returncode < 0:
        raise UnsafeFileError(
            f"{path}: needs more memory or time than a {what} may take (signal {-process.returncode})"
        )
    try:
        report = json.loads(process.stdout)
    except ValueError:
        last = process.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise ResourceError(f"{path}: the reading process failed ({last[0][:200]})") from None
    if "error" in report:
        raise UnsafeFileError(report["error"])
    return report


def serve(read: Callable[[], dict[str, Any]], path: str, *, limits: Limits, what: str) -> None:
    """In the limited process: run `read`, print its report as one JSON object, and end the process.

    A refusal (`UnsafeFileError`, or memory used up) becomes a report with `error`.
    """
    limit_process(limits)
    try:
        text = json.dumps(read())
    except UnsafeFileError as error:
        text = json.dumps({"error": str(error)})
    except (MemoryError, RecursionError):
        text = json.dumps({"error": f"{path}: asks for more memory than a {what} needs"})
    sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(0)  # nothing of the file is left to run when objects are torn down


def limit_process(limits: Limits) -> None:
    """Bound memory, CPU time, open files and new processes of this process, where the system allows it."""
    try:
        import resource
    except ImportError:
        return
    bounds = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: limits.memory_bytes,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for limit, value in bounds.items():
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(limit, (bound, bound))
        except (ValueError, OSError):
            continue  # macOS refuses some of them
