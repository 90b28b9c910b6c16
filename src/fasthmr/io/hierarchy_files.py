"""Files of mesh hierarchies: the published `.npz` of METRO, read without running what it names, and our own.

Ours is safetensors: `sizes`, and for each level `edges`, `faces`, `kept` and the entries of `up`; perhaps a
`regressor` of joints beside them.
"""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from jaxtyping import Float
from safetensors.torch import load, save_file
from torch import Tensor

from fasthmr.body.hierarchy import MeshHierarchy
from fasthmr.errors import InputError, UsageError
from fasthmr.io.atomic import atomic_path
from fasthmr.io.hierarchy_reader import LIMITS, MAX_FILE_BYTES, WHAT
from fasthmr.io.isolated import read_isolated


@dataclass(frozen=True, kw_only=True)
class HierarchyFile:
    """What a file of a mesh hierarchy holds.

    Attributes:
        regressor: Joints from the finest level, where the file was imported with one: METRO starts from the
            17 of Human3.6M.
    """

    hierarchy: MeshHierarchy
    regressor: Float[Tensor, "joints vertices"] | None


def load_hierarchy(path: Path | str) -> MeshHierarchy:
    """The hierarchy of `load_hierarchy_file` alone."""
    return load_hierarchy_file(path).hierarchy


def load_hierarchy_file(path: Path | str) -> HierarchyFile:
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
        arrays = load(result.read_bytes())
    return HierarchyFile(hierarchy=_from_arrays(arrays), regressor=arrays.get("regressor"))


def is_hierarchy_file(path: Path | str) -> bool:
    """Whether a file looks like a mesh hierarchy, by the names of its parts alone."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[:2] == b"PK":
            if path.suffix.lower() != ".npz" or path.stat().st_size > MAX_FILE_BYTES:
                return False
            with zipfile.ZipFile(path) as members:
                return {"A.npy", "U.npy", "D.npy"} <= set(members.namelist())
        if start[8:] != b"{":
            return False
        with safetensors.safe_open(path, framework="np") as tensors:
            return {"sizes", "edges0"} <= set(tensors.keys())
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, safetensors.SafetensorError):
        return False


def save_hierarchy(
    hierarchy: MeshHierarchy,
    path: Path | str,
    regressor: Float[Tensor, "joints vertices"] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a hierarchy as safetensors; what came from a licensed file keeps that licence.

    Args:
        regressor: See `HierarchyFile`.

    Raises:
        UsageError: The regressor is of another mesh.
    """
    if regressor is not None and regressor.shape[1] != hierarchy.sizes[0]:
        raise UsageError(
            f"the regressor reads {regressor.shape[1]} vertices, the finest level of the mesh hierarchy has "
            f"{hierarchy.sizes[0]}"
        )
    arrays: dict[str, Tensor] = {"sizes": torch.tensor(hierarchy.sizes)}
    if regressor is not None:
        arrays["regressor"] = regressor.double()
    for i, up in enumerate(hierarchy.up):
        row, column = up.coalesce().indices()
        arrays |= {f"up{i}.row": row, f"up{i}.col": column, f"up{i}.val": up.coalesce().values().double()}
        arrays[f"kept{i}"] = hierarchy.kept[i]
    for i, (edges, faces) in enumerate(zip(hierarchy.edges, hierarchy.faces, strict=True)):
        arrays[f"edges{i}"] = edges
        if faces is not None:
            arrays[f"faces{i}"] = faces
    with atomic_path(path) as temporary:
        save_file({key: array.contiguous() for key, array in arrays.items()}, temporary, metadata)


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
