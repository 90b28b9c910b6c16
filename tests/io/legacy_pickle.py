"""Writes pickles as Python 2, chumpy and scipy wrote them, with none of these installed."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any, ClassVar

import numpy as np

_PYTHON2_NAMES = {"builtins": "__builtin__", "copyreg": "copy_reg"}


class Ch:
    """Layout of `chumpy.ch.Ch`."""

    def __init__(self, x: Any) -> None:
        self.x = x
        self._dirty_vars = {"x"}
        self._itr = None


class Select:
    """Layout of `chumpy.reordering.Select`."""

    def __init__(self, a: Any, idxs: Any, preferred_shape: Any) -> None:
        self.a, self.idxs, self.preferred_shape = a, idxs, preferred_shape


class Csc:
    """Layout of `scipy.sparse.csc_matrix`."""

    def __init__(self, dense: np.ndarray) -> None:
        columns, rows = np.nonzero(dense.T)
        self.data = dense[rows, columns]
        self.indices = rows.astype(np.int32)
        self.indptr = np.concatenate([[0], np.cumsum((dense != 0).sum(0))]).astype(np.int32)
        self._shape = dense.shape
        self.maxprint = 50


class LegacyPickler(pickle._Pickler):  # type: ignore[name-defined]
    """Pickler that writes chosen module names, and Python 2 byte strings where asked.

    Args:
        python2: Text and bytes become Python 2 strings and standard names are those of Python 2.
        numpy_core: `core` for numpy 1, `_core` for numpy 2.
    """

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: io.BytesIO, protocol: int, *, python2: bool, numpy_core: str) -> None:
        super().__init__(file, protocol)
        self.python2 = python2
        self.numpy_core = numpy_core

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module, attribute = obj.__module__, name or obj.__qualname__
        scipy_module = "scipy.sparse._csc" if self.proto >= 4 else "scipy.sparse.csc"
        known = {
            Ch: ("chumpy.ch", "Ch"),
            Select: ("chumpy.reordering", "Select"),
            Csc: (scipy_module, "csc_matrix"),
        }
        if isinstance(obj, type) and obj in known:
            module, attribute = known[obj]
        if module.startswith("numpy."):
            module = f"numpy.{self.numpy_core}." + module.split(".", 2)[2]
        if self.proto < 3:
            module = _PYTHON2_NAMES.get(module, module)
        if self.proto >= 4:
            self.save(module)
            self.save(attribute)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())
        self.memoize(obj)

    def _save_text(self, obj: str) -> None:
        if self.python2:
            self._save_python2(obj, obj.encode("latin-1"))
        else:
            super().save_str(obj)

    def _save_bytes(self, obj: bytes) -> None:
        if self.python2:
            self._save_python2(obj, obj)
        else:
            super().save_bytes(obj)

    def _save_python2(self, obj: str | bytes, data: bytes) -> None:
        if self.proto == 0:
            self.write(pickle.STRING + repr(data)[1:].encode() + b"\n")
        elif len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(obj)

    dispatch[str] = _save_text
    dispatch[bytes] = _save_bytes
    dispatch[type] = save_global


def legacy_dumps(content: Any, protocol: int, *, python2: bool = False, numpy_core: str = "core") -> bytes:
    """Bytes of a pickle as an old writer would have made them."""
    file = io.BytesIO()
    LegacyPickler(file, protocol, python2=python2, numpy_core=numpy_core).dump(content)
    return file.getvalue()


def body_arrays(
    joints: int = 24, vertices: int = 40, betas: int = 10, seed: int = 0
) -> dict[str, np.ndarray]:
    """A small valid body under the key names of published files."""
    random = np.random.default_rng(seed)
    weights = random.random((vertices, joints))
    regressor = random.random((joints, vertices)) * (random.random((joints, vertices)) < 0.3)
    parents = np.array([2**32 - 1, *(random.integers(0, j) for j in range(1, joints))], dtype=np.int64)
    return {
        "v_template": random.standard_normal((vertices, 3)),
        "shapedirs": random.standard_normal((vertices, 3, betas)),
        "posedirs": random.standard_normal((vertices, 3, 9 * (joints - 1))),
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "f": random.integers(0, vertices, (60, 3)).astype(np.uint32),
        "kintree_table": np.stack([parents, np.arange(joints)]),
    }


def as_published(arrays: dict[str, np.ndarray], *, hand: bool = False) -> dict[str, Any]:
    """The same body as chumpy and scipy objects, the way SMPL (or, with `Select`, MANO) files hold it."""
    shapedirs: Any = Ch(arrays["shapedirs"])
    extra: dict[str, Any] = {"bs_style": "lbs", "bs_type": "lrotmin", "pose_training_info": {"scale": 1.5}}
    if hand:
        backwards = np.arange(arrays["shapedirs"].size)[::-1].copy()
        source = Ch(arrays["shapedirs"].ravel()[::-1].copy())
        shapedirs = Select(source, backwards, arrays["shapedirs"].shape)
        random = np.random.default_rng(1)
        extra |= {
            "hands_mean": random.random(45),
            "hands_components": random.random((45, 45)),
            "hands_coeffs": 0,
        }
    return {
        **arrays,
        **extra,
        "shapedirs": shapedirs,
        "posedirs": Ch(np.asfortranarray(arrays["posedirs"])),
        "weights": Ch(arrays["weights"]),
        "v_template": Ch(arrays["v_template"]),
        "J_regressor": Csc(arrays["J_regressor"]),
    }
