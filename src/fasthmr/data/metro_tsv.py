"""Data sets as METRO, FastMETRO and TORE read them: rows of tab-separated files, named by a YAML file.

`img` rows end with a JPEG in base64, `label` rows with JSON whose first item says what is known of one person
or hand. `linelist` chooses rows; with `composite: true` the others are lists of files, and its rows say which
file and which row. Offsets of rows come from `NAME.lineidx` beside each file, or are found by reading it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fasthmr.data.metro_example import MetroLabels
from fasthmr.errors import InputError

Kind = Literal["body", "hand"]

JOINTS = {"body": 24, "hand": 21}
"""Annotated points of one person or hand."""

POSE = {"body": 72, "hand": 48}
"""Axis-angles of SMPL's 24 joints and MANO's 16."""

_MAX_ROW = 1 << 28
_TEXT = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class MetroRow:
    """One person or hand as annotated.

    Attributes:
        key: Of the picture.
        rgb: The whole picture.
        center, side: Of the square to cut, pixels.
        labels: Points with no confidence where the file says that there are none.
        betas: Shape coefficients.
        has_3d, has_mesh: Whether 3D joints, and pose with shape, are known.
        gender: "male", "female", or "" where nothing is said.
    """

    key: str
    rgb: UInt8[np.ndarray, "height width 3"]
    center: tuple[float, float]
    side: float
    labels: MetroLabels
    betas: Float[Tensor, "10"]
    has_3d: bool
    has_mesh: bool
    gender: str


class MetroTsv:
    """The rows of a data set.

    Args:
        path: YAML file that names the others, or `NAME.img.tsv` with `NAME.label.tsv` beside it.
        kind: What it is of.

    Raises:
        InputError: A file is missing or not as it should be.
    """

    def __init__(self, path: Path | str, kind: Kind = "body") -> None:
        self.path, self.kind = Path(path), kind
        names = _named(self.path)
        self._pictures = [_TsvFile(file) for file in names["img"]]
        self._labels = [_TsvFile(file) for file in names["label"]]
        if len(self._pictures) != len(self._labels):
            raise InputError(
                f"{self.path}: {len(self._pictures)} files of pictures and {len(self._labels)} of labels"
            )
        for pictures, labels in zip(self._pictures, self._labels, strict=True):
            if len(pictures) != len(labels):
                raise InputError(
                    f"{labels.path}: {len(labels)} rows for {len(pictures)} pictures in {pictures.path}"
                )
        sizes = [len(file) for file in self._labels]
        self._rows = _chosen(names["linelist"], sizes) if names["linelist"] else _every(sizes)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> MetroRow:
        """One row.

        Raises:
            InputError: Picture and label do not belong together, or one is damaged.
        """
        file, row = self._rows[index].tolist()
        pictures, labels = self._pictures[file], self._labels[file]
        key, *columns = labels.row(row)
        picture = pictures.row(row)
        if picture[0] != key:
            raise InputError(f"{labels.path}: row {row} is '{key}', the picture is '{picture[0]}'")
        where = f"{labels.path}, row {row} ('{key}')"
        try:
            said = json.loads(columns[-1])
            said = said[0] if isinstance(said, list) else said
            return self._row(key, _picture(picture[-1], where), said)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise InputError(f"{where}: not a label ({type(error).__name__}: {error})") from error

    def _row(self, key: str, rgb: np.ndarray, said: dict[str, Any]) -> MetroRow:
        count = JOINTS[self.kind]
        joints_2d = _points(said["2d_joints"], count, 3)
        joints_3d = _points(said["3d_joints"], count, 4)
        has_3d, has_mesh = _flag(said["has_3d_joints"]), _flag(said["has_smpl"])
        if not _flag(said.get("has_2d_joints", 1)):
            joints_2d[:, 2] = 0
        pose, betas = _numbers(said["pose"], POSE[self.kind]), _numbers(said["betas"], 10)
        center = _numbers(said["center"], 2).tolist()
        gender = str(said.get("gender", "")).lower()
        return MetroRow(
            key=key,
            rgb=rgb,
            center=(center[0], center[1]),
            side=200 * float(_numbers(said["scale"], 1)[0]),
            labels=MetroLabels(joints_2d=joints_2d, joints_3d=joints_3d, pose=pose),
            betas=betas,
            has_3d=has_3d,
            has_mesh=has_mesh,
            gender={"m": "male", "f": "female"}.get(gender, gender if gender in ("male", "female") else ""),
        )


class _TsvFile:
    """Rows by number, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        index = path.with_suffix(".lineidx")
        self._starts = _integers(index, "a list of offsets").ravel() if index.is_file() else _found(path)
        size = path.stat().st_size
        ends = np.append(self._starts[1:], size)
        if len(self._starts) and not (self._starts[0] == 0 and (ends > self._starts).all()):
            raise InputError(f"{index}: not the offsets of the rows of {path} ({size} bytes); remove it")
        self._ends = ends

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, number: int) -> list[str]:
        """The columns of a row."""
        start, end = int(self._starts[number]), int(self._ends[number])
        if end - start > _MAX_ROW:
            raise InputError(f"{self.path}: row {number} has {end - start} bytes")
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(end - start)
        text = line.decode("utf-8", errors="replace").rstrip("\r\n")
        columns = text.split("\t")
        if "\n" in text or len(columns) < 2:
            raise InputError(
                f"{self.path}: row {number} is no row of key and value; is the .lineidx its own?"
            )
        return columns


def _named(path: Path) -> dict[str, list[Path]]:
    """Files of pictures and labels, and the list of lines if there is one."""
    if path.name.endswith(".img.tsv"):
        return {"img": [path], "label": [path.with_name(path.name[:-8] + ".label.tsv")], "linelist": []}
    said = _flat_yaml(path)
    missing = {"img", "label"} - said.keys()
    if missing:
        raise InputError(f"{path}: names no '{min(missing)}'; needed: img, label and perhaps linelist")
    composite = str(said.get("composite", "false")).lower() == "true"
    files: dict[str, list[Path]] = {}
    for key in ("img", "label"):
        named = said[key]
        if composite and isinstance(named, str):
            named = _lines(path.parent / named)
        files[key] = [path.parent / name for name in ([named] if isinstance(named, str) else named)]
    listed = said.get("linelist", "")
    files["linelist"] = [path.parent / listed] if isinstance(listed, str) and listed else []
    if composite and not files["linelist"]:
        raise InputError(f"{path}: a composite data set needs a linelist of file and row")
    return files


def _flat_yaml(path: Path) -> dict[str, str | list[str]]:
    """Keys with words or lists of words, which is all that such files have."""
    said: dict[str, str | list[str]] = {}
    last = ""
    for line in _lines(path):
        if line.lstrip().startswith("- "):
            entries = said.setdefault(last, [])
            if isinstance(entries, list):
                entries.append(_word(line.strip()[2:]))
                continue
        key, colon, value = line.partition(":")
        if not colon or key != key.strip():
            raise InputError(f"{path}: '{line.strip()}' is not 'key: file' of a data set")
        value = value.strip()
        if value.startswith("[") and value.endswith("]"):
            said[key] = [_word(word) for word in value[1:-1].split(",") if word.strip()]
        elif value:
            said[key] = _word(value)
        last = key
    return said


def _word(text: str) -> str:
    return text.strip().strip("'\"")


def _lines(path: Path) -> list[str]:
    """Lines of a small text file, without empty ones and comments."""
    try:
        if path.stat().st_size > _TEXT:
            raise InputError(f"{path}: more than {_TEXT >> 20} MB; needed: a short list of files")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return [line for line in lines if line.strip() and not line.strip().startswith("#")]


def _chosen(linelists: Sequence[Path], sizes: list[int]) -> Int[np.ndarray, "rows 2"]:
    """File and row of each sample."""
    (path,) = linelists
    table = _integers(path, "a list of rows")
    if table.shape[1] == 1 and len(sizes) == 1:
        table = np.concatenate([np.zeros_like(table), table], axis=1)
    if table.shape[1] != 2 or not len(table):
        raise InputError(f"{path}: {table.shape[1]} columns for {len(sizes)} files; needed: file and row")
    files, rows = table.T
    if (table < 0).any() or (files >= len(sizes)).any() or (rows >= np.array(sizes)[files]).any():
        raise InputError(f"{path}: names rows beyond the {sizes} that the files have")
    return table


def _every(sizes: list[int]) -> Int[np.ndarray, "rows 2"]:
    files = np.repeat(np.arange(len(sizes)), sizes)
    return np.stack([files, np.concatenate([np.arange(size) for size in sizes])], axis=1)


def _integers(path: Path, what: str) -> Int[np.ndarray, "rows columns"]:
    """A table of whole numbers."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
        rows = [[int(word) for word in words] for words in lines if words]
        return np.array(rows, dtype=np.int64).reshape(len(rows), -1 if rows else 1)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not {what} ({error})") from error


def _found(path: Path) -> Int[np.ndarray, "rows"]:
    starts, place = [], 0
    with path.open("rb") as file:
        for line in file:
            starts.append(place)
            place += len(line)
    return np.array(starts, dtype=np.int64)


def _picture(text: str, where: str) -> UInt8[np.ndarray, "height width 3"]:
    import cv2

    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise InputError(f"{where}: the picture is not base64 ({error})") from error
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if picture is None:
        raise InputError(f"{where}: the picture is damaged")
    return np.ascontiguousarray(picture[..., ::-1])


def _points(values: object, count: int, columns: int) -> Tensor:
    """Rows of points; some files have them in a list of one."""
    return _numbers(values, count * columns).reshape(count, columns)


def _numbers(values: object, count: int) -> Float[Tensor, " count"]:
    table = torch.as_tensor(np.asarray(values, dtype=np.float64)).float().flatten()
    if len(table) != count or not bool(table.isfinite().all()):
        raise ValueError(f"{len(table)} numbers, or some that are not finite; needed: {count}")
    return table


def _flag(value: object) -> bool:
    return bool(np.asarray(value).reshape(-1)[0])
