"""What result files of people have in common as .npz: one table of arrays for the clip, one per person."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from fasthmr.errors import InputError
from fasthmr.io import safe_npz
from fasthmr.io.atomic import atomic_path
from fasthmr.io.clip_schema import SCHEMA_VERSION

Fields = Mapping[str, tuple[str, tuple[str | int, ...]]]
"""Name: dtype kinds and shape. A letter stands for one length throughout a person, capitals throughout the
file."""

_MAY_BE_NAN = {"fps"}
_PERSON_KEY = re.compile(r"person_(\d{3,6})/(\w+)")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes a compressed .npz, complete or not at all."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)
    return path


def read_people(
    path: Path, schema: str, clip_fields: Fields, person_fields: Fields, optional: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]], dict[str, int]]:
    """Arrays of the clip, arrays of each person, and the lengths that the letters of the shapes stand for.

    Every name, type and shape is checked; both tables need `num_persons`, `frames` and one shape with "N".

    Raises:
        InputError: the file is missing, damaged, unsafe or of another schema.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    members = safe_npz.read_npz(path, error=InputError)
    if str(members.get("schema")) != schema:
        raise InputError(f"{path}: not a result of fasthmr of the schema '{schema}'")
    version = members.get("schema_version", np.array(0))
    if version.shape != () or version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema version {version}, expected {SCHEMA_VERSION}; update fasthmr")
    own = {name: value for name, value in members.items() if "/" not in name}
    sizes: dict[str, int] = {}
    _check(path, own, clip_fields, optional, sizes)
    people: list[dict[str, np.ndarray]] = [{} for _ in range(min(int(own["num_persons"]), len(members)))]
    for name, value in members.items():
        match = _PERSON_KEY.fullmatch(name)
        if match and int(match[1]) < len(people):
            people[int(match[1])][match[2]] = value
        elif "/" in name:
            raise InputError(f"{path}: unknown array '{name}'")
    for index, person in enumerate(people):
        shared = {name: size for name, size in sizes.items() if name.isupper()}
        _check(path, person, person_fields, optional, shared, f"person_{index:03d}/")
        sizes.update({name: size for name, size in shared.items() if name.isupper()})
        rising = (np.diff(person["frames"].astype(np.int64)) > 0).all()
        if not rising or not indices_fit(person["frames"], sizes["N"]):
            raise InputError(
                f"{path}: 'person_{index:03d}/frames' are not rising indices of {sizes['N']} frames"
            )
    return own, people, sizes


def indices_fit(indices: np.ndarray, limit: int) -> bool:
    """Whether all are in 0..limit - 1."""
    return indices.size == 0 or (int(indices.min()) >= 0 and int(indices.max()) < limit)


def _check(
    path: Path,
    arrays: dict[str, np.ndarray],
    known: Fields,
    optional: Collection[str],
    sizes: dict[str, int],
    prefix: str = "",
) -> None:
    for name in sorted(known.keys() - arrays.keys() - set(optional)):
        raise InputError(f"{path}: array '{prefix}{name}' is missing")
    for name, value in arrays.items():
        if name not in known:
            raise InputError(f"{path}: unknown array '{prefix}{name}'")
        kinds, shape = known[name]
        wanted = tuple(sizes.get(size, size) if isinstance(size, str) else size for size in shape)
        fits = len(wanted) == value.ndim and all(
            isinstance(size, str) or size == length for size, length in zip(wanted, value.shape, strict=True)
        )
        if not fits or value.dtype.kind not in kinds:
            raise InputError(f"{path}: '{prefix}{name}' is {value.dtype} {value.shape}, expected {wanted}")
        named = zip(shape, value.shape, strict=True)
        sizes.update({size: length for size, length in named if isinstance(size, str)})
        if value.dtype.kind == "f" and name not in _MAY_BE_NAN and not np.isfinite(value).all():
            raise InputError(f"{path}: '{prefix}{name}' holds numbers that are not finite")
