"""Files of mesh hierarchies: the published `.npz` of METRO, read without running what it names, and our own.

Ours is safetensors: `sizes`, and for each level `edges`, `faces`, `kept` and the entries of `up`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load, save_file
from torch import Tensor

from fasthmr.body.hierarchy import MeshHierarchy
from fasthmr.errors import InputError
from fasthmr.io.atomic import atomic_path
from fasthmr.io.hierarchy_reader import LIMITS, WHAT
from fasthmr.io.isolated import read_isolated


def load_hierarchy(path: Path | str) -> MeshHierarchy:
    """A hierarchy from a published `.npz` (`mesh_downsampling`, `mano_downsampling`) or from our own file.

    The file is read in a separate process with at most 2 GB of memory and 60 s of CPU time. Mesh objects that
    the published file of the body holds beside the operators are never opened.

    Raises:
        InputError: There is no such file.
        UnsafeFileError: Unsafe, damaged, or no hierarchy.
        ResourceError: The reading process could not run.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    with tempfile.TemporaryDirectory(prefix="fasthmr-") as folder:
        result = Path(folder) / "arrays.safetensors"
        read_isolated(
            "fasthmr.io.hierarchy_reader",
            path,
            (str(path.absolute()), str(result)),
            limits=LIMITS,
            what=WHAT,
            packages=(np, safetensors),
        )
        return _from_arrays(load(result.read_bytes()))


def save_hierarchy(hierarchy: MeshHierarchy, path: Path | str) -> None:
    """Write a hierarchy as safetensors; what came from a licensed file keeps that licence."""
    arrays: dict[str, Tensor] = {"sizes": torch.tensor(hierarchy.sizes)}
    for i, up in enumerate(hierarchy.up):
        row, column = up.coalesce().indices()
        arrays |= {f"up{i}.row": row, f"up{i}.col": column, f"up{i}.val": up.coalesce().values().double()}
        arrays[f"kept{i}"] = hierarchy.kept[i]
    for i, (edges, faces) in enumerate(zip(hierarchy.edges, hierarchy.faces, strict=True)):
        arrays[f"edges{i}"] = edges
        if faces is not None:
            arrays[f"faces{i}"] = faces
    with atomic_path(path) as temporary:
        save_file({key: array.contiguous() for key, array in arrays.items()}, temporary)


def _from_arrays(arrays: dict[str, Tensor]) -> MeshHierarchy:
    sizes = tuple(arrays["sizes"].tolist())
    steps = range(len(sizes) - 1)
    return MeshHierarchy(
        sizes=sizes,
        up=tuple(
            torch.sparse_coo_tensor(
                torch.stack([arrays[f"up{i}.row"], arrays[f"up{i}.col"]]),
                arrays[f"up{i}.val"],
                sizes[i : i + 2],
                check_invariants=True,
            ).coalesce()
            for i in steps
        ),
        kept=tuple(arrays[f"kept{i}"] for i in steps),
        edges=tuple(arrays[f"edges{i}"] for i in range(len(sizes))),
        faces=tuple(arrays.get(f"faces{i}") for i in range(len(sizes))),
    )
