"""The pictures and the clip that come with the package, run through the default pipeline."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

from fasthmr.errors import UnsafeFileError
from fasthmr.runtime.batch import predict_many
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.runtime.sources import find_sources


def run_demo(out: Path, say: Callable[[str], None], pipeline: Pipeline | None = None) -> Path:
    """Writes overlay, GLB, NPZ and BVH of the demo pictures and the demo clip.

    Args:
        out: Folder for the results.
        say: Takes a line for each file written.
        pipeline: Instead of the default one.

    Raises:
        UnsafeFileError: The package is incomplete.
    """
    with as_file(files("fasthmr").joinpath("assets", "demo")) as folder:
        if not folder.is_dir():
            raise UnsafeFileError("assets/demo is missing from the package; reinstall fasthmr")
        found = find_sources([str(folder)]).items
        for report in predict_many(pipeline or Pipeline(), found, out, ("overlay", "glb", "npz", "bvh")):
            if report.error is not None:
                raise report.error
            for path in report.outputs:
                say(f"wrote {path}")
    return out.resolve()
