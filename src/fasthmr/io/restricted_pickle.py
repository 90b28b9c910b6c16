"""Read arrays out of SMPL-family pickles without running anything that the file names.

Every global of a closed table becomes an inert record (`fasthmr.io.inert`). Arrays are built afterwards
from those records with explicit checks, so neither chumpy, scipy nor numpy's own unpickling code runs. A
stranger's file belongs in the limited process of `fasthmr.io.body_reader`. Imports numpy and no torch.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from fasthmr.errors import UnsafeFileError
from fasthmr.io.inert import Encode, Record, Token, Unpickler, load, printable

_MAX_SELECT_DEPTH = 4
_MAX_DENSE_ELEMENTS = 2**26  # a sparse matrix may claim any shape; SMPL-X needs 55 * 10475
_DTYPE_CODES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"b1", "f2", "f4", "f8"}
_OBJECT_CODES = ("O8", "O4", "O")
_OLD_DTYPE_CODES = {"?": "b1", "d": "f8", "f": "f4", "l": "i8", "L": "u8", "q": "i8", "i": "i4", "I": "u4"}


class _Array(Record):
    """`numpy.core.multiarray._reconstruct(ndarray, (0,), b"b")`, filled by its state."""


class _Buffer(Record):
    """`numpy.core.numeric._frombuffer(bytes, dtype, shape, order)` of pickle protocol 5."""


class _Scalar(Record):
    """`numpy.core.multiarray.scalar(dtype, bytes)`."""


class _Dtype(Record):
    """`numpy.dtype(code, align, copy)`; its state holds the byte order."""


class _Ch(Record):
    """`chumpy.ch.Ch`: a differentiable array; its value is `x`."""


class _Select(Record):
    """`chumpy.reordering.Select`: entries `idxs` of the flattened `a`, as `preferred_shape`."""


class _Csc(Record):
    """`scipy.sparse.csc_matrix`: compressed sparse columns."""


class SparseMatrix(NamedTuple):
    """Entries of a sparse matrix; those given twice add up."""

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class _Reconstructor(Record):
    """`copy_reg._reconstructor(type, object, None)` of protocols 0 and 1: an empty instance of a record."""

    def __new__(cls, *args: Any) -> Any:
        if not args or not isinstance(args[0], type) or not issubclass(args[0], (_Ch, _Select, _Csc)):
            raise pickle.UnpicklingError("an instance of an unexpected type")
        return args[0]()


_GLOBALS: dict[tuple[str, str], type[Record]] = {
    ("_codecs", "encode"): Encode,
    ("collections", "OrderedDict"): Token,
    ("chumpy.ch", "Ch"): _Ch,
    ("chumpy.reordering", "Select"): _Select,
    ("scipy.sparse.csc", "csc_matrix"): _Csc,
    ("scipy.sparse._csc", "csc_matrix"): _Csc,
    ("numpy", "ndarray"): Token,
    ("numpy", "dtype"): _Dtype,
    **{(module, name): Token for module in ("__builtin__", "builtins") for name in ("set", "object")},
    **{(module, "_reconstructor"): _Reconstructor for module in ("copy_reg", "copyreg")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Buffer for core in ("core", "_core")},
}


def read_pickle(path: Path, *, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a pickled dictionary, or of a single pickled array under the key `array`.

    Args:
        wanted: Keys to read; None for all. Other keys are left out, whatever they hold.

    Raises:
        UnsafeFileError: The file names a global outside the table, is damaged, or holds something else
            than numeric arrays under a wanted key.
    """
    with path.open("rb") as file:
        content = load(Unpickler(file, _GLOBALS), path, "body file")
    if isinstance(content, Record):
        return {"array": _checked_array(content, "array", path)}
    if type(content) is not dict:
        raise UnsafeFileError(
            f"{path}: holds a {type(content).__name__}, expected a dictionary of arrays or one array"
        )
    keys = [key for key in content if isinstance(key, str) and (wanted is None or key in wanted)]
    content = {key: content[key] for key in keys}
    return {key: _checked_array(content.pop(key), key, path) for key in keys}  # frees the raw text one by one


def read_object_array(file: IO[bytes], key: str, path: Path, what: str) -> list[np.ndarray | SparseMatrix]:
    """Entries of a pickled one-dimensional array of Python objects, each a numeric array or a sparse matrix.

    Args:
        key: What the array is called, for messages.
        what: "mesh hierarchy" or the like, for messages.

    Raises:
        UnsafeFileError: As in `read_pickle`.
    """
    content = load(Unpickler(file, _GLOBALS), path, what)
    try:
        if not isinstance(content, _Array):
            raise ValueError(f"it is a {type(content).__name__.lstrip('_')}, not an array")
        _, shape, dtype, _, entries = _items(content.state, 5, "array state")
        code = dtype.args[0] if isinstance(dtype, _Dtype) and dtype.args else None
        if code not in _OBJECT_CODES or type(entries) is not list or _shape(shape) != (len(entries),):
            raise ValueError("no list of objects")
        return [_sparse(entry) if isinstance(entry, _Csc) else _evaluate(entry) for entry in entries]
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise UnsafeFileError(
            f"{path}: '{printable(key)}' cannot be used: {printable(error, 160)}; download the file again"
        ) from None


def _checked_array(value: Any, key: str, path: Path) -> np.ndarray:
    try:
        return _evaluate(value)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise UnsafeFileError(
            f"{path}: '{printable(key)}' cannot be used: {printable(error, 160)}; download the file again"
        ) from None


def _evaluate(value: Any, depth: int = 0) -> np.ndarray:
    """The array that a record stands for.

    Raises:
        ValueError: It stands for none, or its parts disagree.
    """
    if depth > _MAX_SELECT_DEPTH:
        raise ValueError(f"selections nested more than {_MAX_SELECT_DEPTH} deep")
    if isinstance(value, _Array):
        _, shape, dtype, fortran, raw = _items(value.state, 5, "array state")
        return _from_bytes(raw, dtype, shape, "F" if fortran is True or fortran == 1 else "C")
    if isinstance(value, _Buffer):
        raw, dtype, shape, order = _items(value.args, 4, "array")
        return _from_bytes(raw, dtype, shape, "F" if order == "F" else "C")
    if isinstance(value, _Scalar):
        dtype, raw = _items(value.args, 2, "scalar")
        return _from_bytes(raw, dtype, (), "C")
    if isinstance(value, _Ch):
        return _evaluate(_field(value, "x"), depth + 1)
    if isinstance(value, _Select):
        return _selected(value, depth)
    if isinstance(value, _Csc):
        return _dense(value)
    raise ValueError(f"it is a {type(value).__name__.lstrip('_')}, not an array of numbers")


def _items(value: Any, count: int, what: str) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) != count:
        raise ValueError(f"{what} without its {count} parts")
    return value


def _field(record: Record, *names: str) -> Any:
    """State under the first of `names` that is present."""
    state = record.state if type(record.state) is dict else {}
    for name in names:
        if name in state:
            return state[name]
    raise ValueError(f"a {type(record).__name__.lstrip('_')} record without '{names[0]}'")


def _shape(value: Any) -> tuple[int, ...]:
    if type(value) not in (tuple, list) or len(value) > 8:
        raise ValueError("a shape that is no short tuple")
    if any(type(size) is not int or size < 0 for size in value):
        raise ValueError("a shape with something else than natural numbers")
    return tuple(value)


def _numpy_dtype(value: Any) -> np.dtype:
    """A plain number type; structured, object and text types are refused."""
    code = value.args[0] if isinstance(value, _Dtype) and value.args else None
    code = _OLD_DTYPE_CODES.get(code, code) if type(code) is str else None
    order = "="
    if code is not None and code[:1] in ("<", ">", "|", "="):
        order, code = code[0], code[1:]
    if code not in _DTYPE_CODES:
        raise ValueError(f"numbers of type {printable(code, 20)}")
    if value.state is not None:
        if (
            type(value.state) is not tuple
            or len(value.state) < 5
            or any(part is not None for part in value.state[2:5])
        ):
            raise ValueError("numbers with named or nested fields")
        order = value.state[1]
    if order not in ("<", ">", "|", "="):
        raise ValueError("numbers of unknown byte order")
    return np.dtype(code).newbyteorder(order)


def _from_bytes(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """An array from its bytes, in the byte order of this machine."""
    number, sizes = _numpy_dtype(dtype), _shape(shape)
    data = raw.encode("latin-1") if type(raw) is str else raw
    if type(data) not in (bytes, bytearray):
        raise ValueError("an array without its bytes")
    declared = math.prod(sizes) * number.itemsize
    if declared != len(data):
        raise ValueError(f"shape {sizes} needs {declared} bytes, the file has {len(data)}")
    array = np.frombuffer(data, dtype=number).reshape(sizes, order="F" if order == "F" else "C")
    return array.astype(number.newbyteorder("="), order="C")


def _selected(record: _Select, depth: int) -> np.ndarray:
    source = _evaluate(_field(record, "a"), depth + 1).ravel()
    chosen = _evaluate(_field(record, "idxs"), depth + 1)
    if chosen.dtype.kind not in "iu" or (chosen.size and not 0 <= chosen.min() <= chosen.max() < source.size):
        raise ValueError(f"a selection outside its source of {source.size} entries")
    result = source[chosen.ravel()]
    preferred = record.state.get("preferred_shape")
    if preferred is None:
        return result
    if isinstance(preferred, Record):
        preferred = _evaluate(preferred, depth + 1).tolist()
    sizes = _shape(preferred)
    if math.prod(sizes) != result.size:
        raise ValueError(f"a selection of {result.size} entries for shape {sizes}")
    return result.reshape(sizes)


def _dense(record: _Csc) -> np.ndarray:
    """Compressed sparse columns as a dense matrix; entries given twice add up."""
    matrix = _sparse(record)
    if math.prod(matrix.shape) > _MAX_DENSE_ELEMENTS:
        raise ValueError(f"a sparse matrix of {matrix.shape[0]} x {matrix.shape[1]}")
    dense = np.zeros(matrix.shape, dtype=matrix.values.dtype)
    np.add.at(dense, (matrix.rows, matrix.columns), matrix.values)
    return dense


def _sparse(record: _Csc) -> SparseMatrix:
    """Compressed sparse columns as single entries."""
    rows, columns = _items(_shape(_field(record, "_shape", "shape")), 2, "sparse shape")
    data, indices, indptr = (_evaluate(_field(record, name)) for name in ("data", "indices", "indptr"))
    if data.ndim != 1 or indices.shape != data.shape or indptr.shape != (columns + 1,):
        raise ValueError("a sparse matrix whose parts disagree")
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise ValueError("a sparse matrix without whole-number indices")
    indptr, indices = indptr.astype(np.int64), indices.astype(np.int64)
    counts = np.diff(indptr)
    if indptr[0] != 0 or indptr[-1] != data.size or (counts < 0).any():
        raise ValueError("a sparse matrix with wrong column starts")
    if indices.size and not 0 <= indices.min() <= indices.max() < rows:
        raise ValueError("a sparse matrix with row indices out of range")
    return SparseMatrix((rows, columns), indices, np.repeat(np.arange(columns), counts), data)
