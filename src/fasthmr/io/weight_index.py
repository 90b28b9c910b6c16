"""The process that looks at weight files of strangers: which tensors they hold, and where each one lies.

Started by `fasthmr.checkpoints.files` through `fasthmr.io.isolated`. Reads the index of a file, never the
weights, so its memory does not grow with the file. Formats: safetensors, PyTorch's zip files, and the plain
pickles that PyTorch wrote before them. Imports neither numpy nor torch.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import stat
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from fasthmr.errors import UnsafeFileError
from fasthmr.io.inert import Unpickler, load, printable
from fasthmr.io.isolated import Limits, serve
from fasthmr.io.torch_pickle import ITEM_BYTES, WHAT, Placed, find_tensors, read_torch_pickle

LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=20, wall_seconds=60)

_MAX_HEADER_BYTES = 16 * 1024**2
_MAX_PICKLE_BYTES = 256 * 1024**2
_MAX_TENSORS = 2**15
_MAX_NAME = 400
_MAX_METADATA_BYTES = 2**18
_ZIP_LOCAL = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_UNSAFE_NAME = re.compile(r"^$|^[/\\]|^[A-Za-z]:[/\\]|(^|[/\\])\.\.?([/\\]|$)|\0")
"""Absolute, climbing, or cut short."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_HEAD = pickle.dumps(_LEGACY_MAGIC, protocol=2)
"""First bytes of the plain pickles that torch.save wrote."""

Entry = tuple[str, str, tuple[int, ...], tuple[int, ...], int]
"""Key, number type, shape, stride in elements, and place of the first number in the file."""


def index_weights(path: Path) -> dict[str, Any]:
    """What a weight file holds: `format`, `tensors` (list of `Entry`), `metadata`, `others` (not read).

    Raises:
        UnsafeFileError: Unreadable, damaged, unsafe, or no weight file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            raise UnsafeFileError(f"{path}: expected a weight file, this is empty or no file at all")
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            name, read = _format(head, path)
            index = {"format": name, "metadata": {}, "others": [], **read(file, path, status.st_size)}
    except OSError as error:
        raise UnsafeFileError(f"{path}: cannot be read ({error.strerror})") from None
    _check_amount(index["tensors"], path, status.st_size)
    return index


_Reader = Callable[[IO[bytes], Path, int], dict[str, Any]]


def _format(head: bytes, path: Path) -> tuple[str, _Reader]:
    """Name and reader of the format that the first bytes tell.

    Raises:
        UnsafeFileError: It is none of ours; says what to do where that is known.
    """
    if head[8:9] == b"{":
        return "safetensors", _read_safetensors
    if head.startswith(b"PK\x03\x04"):
        return "PyTorch", _read_zip
    if head.startswith(LEGACY_HEAD):
        return "PyTorch before 1.6", _read_legacy
    known = {
        head.startswith(b"\x1f\x8b"): "a gzip archive; unpack it (tar -xzf) and give the file inside",
        head[257:262] == b"ustar": "a tar archive; unpack it and give the file inside. "
        "Weights that PyTorch wrote as tar before 0.1.10 must be saved again with a newer PyTorch",
        head.startswith(b"\x89HDF"): "an HDF5 file, which no model here was published as",
        head.startswith(b"\x93NUMPY"): "a NumPy array, not the weights of a model",
        head[:1] == b"\x80" or head[-1:] == b".": "a bare pickle, not a file that torch.save wrote",
    }
    reason = known.get(True, "neither safetensors nor a PyTorch file")
    raise UnsafeFileError(f"{path}: {reason}; nothing was run")


def _check_amount(tensors: list[Entry], path: Path, size: int) -> None:
    """Tensors that share storage may stand for more than the file has, within reason."""
    if not tensors or len(tensors) > _MAX_TENSORS:
        raise UnsafeFileError(
            f"{path}: holds {len(tensors)} tensors, not 1 to {_MAX_TENSORS}; download it again"
        )
    too_long = next((key for key, *_ in tensors if len(key) > _MAX_NAME), None)
    if too_long is not None:
        raise UnsafeFileError(f"{path}: a tensor has a name of {len(too_long)} characters")
    total = sum(math.prod(shape) * ITEM_BYTES[dtype] for _, dtype, shape, _, _ in tensors)
    if total > 2 * size + 2**26:
        raise UnsafeFileError(f"{path}: its tensors declare {total} bytes, the file has {size}")


# safetensors


def _read_safetensors(file: IO[bytes], path: Path, size: int) -> dict[str, Any]:
    """The header: tensors must fill the rest of the file without gap or overlap."""

    def damaged(reason: str) -> UnsafeFileError:
        return UnsafeFileError(f"{path}: not a complete safetensors file ({reason}); download it again")

    length = struct.unpack("<Q", file.read(8))[0]
    if length > min(_MAX_HEADER_BYTES, size - 8):
        raise damaged(f"a header of {length} bytes in a file of {size}")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_unique)
        metadata = header.pop("__metadata__", {})
        parts = [(key, *_tensor_info(info)) for key, info in header.items()]
        texts = [text for item in metadata.items() for text in item]
        if any(type(text) is not str for text in texts) or sum(map(len, texts)) > _MAX_METADATA_BYTES:
            raise ValueError("its metadata is not a short table of texts")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(printable(error, 200)) from None
    at = 0
    tensors: list[Entry] = []
    for key, dtype, shape, begin, end in sorted(parts, key=lambda part: (part[3], part[4])):
        if begin != at or end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
            raise damaged(f"'{printable(key)}' does not follow the tensor before it or has another size")
        tensors.append((key, dtype, shape, _row_major(shape), 8 + length + begin))
        at = end
    if 8 + length + at != size:
        raise damaged(f"tensors of {at} bytes, {size - 8 - length} are there")
    return {"tensors": tensors, "metadata": metadata}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _tensor_info(info: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    dtype, shape, (begin, end) = info["dtype"], tuple(info["shape"]), info["data_offsets"]
    if dtype not in ITEM_BYTES:
        raise ValueError(f"numbers of type {dtype}")
    if len(shape) > 8 or not all(
        type(number) is int and 0 <= number < 2**48 for number in (*shape, begin, end)
    ):
        raise ValueError("a shape or place that is no natural number")
    return dtype, shape, begin, end


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


# PyTorch


def _read_zip(file: IO[bytes], path: Path, size: int) -> dict[str, Any]:
    """A torch.save archive: `<name>/data.pkl` and one stored member `<name>/data/<key>` for each storage."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = _checked_members(archive, file, size)
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise ValueError("no data.pkl in it; is it a PyTorch file?")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}constants.pkl" in members or any(name.startswith(f"{root}code/") for name in members):
                raise ValueError(
                    "a TorchScript program, which is never run; give the state dict of the model"
                )
            order = f"{root}byteorder"
            if order in members and archive.read(order) != b"little":
                raise ValueError("written by a big-endian machine; save it again on a common one")
            if members[pickles[0]][1] > _MAX_PICKLE_BYTES:
                raise ValueError(f"its pickle has over {_MAX_PICKLE_BYTES >> 20} MiB")
            with archive.open(pickles[0]) as stream:
                content, _ = read_torch_pickle(stream, path)
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, struct.error) as error:
        raise UnsafeFileError(
            f"{path}: not a complete PyTorch weight file ({printable(error, 200)}); download it again"
        ) from None
    placed, others = find_tensors(content, path)

    def start(key: str, stored: int) -> int:
        place, length = members.get(f"{root}data/{key}", (0, -1))
        if length != stored:
            raise ValueError(f"storage {printable(key)!r} of {stored} bytes has {max(length, 0)} in the file")
        return place

    return {"tensors": _entries(placed, start, path), "others": others[:64]}


def _checked_members(archive: zipfile.ZipFile, file: IO[bytes], size: int) -> dict[str, tuple[int, int]]:
    """Place and length of the data of each member.

    Raises:
        ValueError: A name is absolute, climbs, or occurs twice; a member is compressed, encrypted, overlaps
            another or reaches outside the file.
    """
    members: dict[str, tuple[int, int]] = {}
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name = info.orig_filename
        if _UNSAFE_NAME.search(name):
            raise ValueError(f"a member with the unsafe name {printable(name)!r}")
        if name in members:
            raise ValueError(f"two members with the name {printable(name)!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(f"{printable(name)!r} is compressed or encrypted; torch.save does neither")
        encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
        file.seek(info.header_offset)
        signature, name_length, extra_length = _ZIP_LOCAL.unpack(file.read(_ZIP_LOCAL.size))
        place = info.header_offset + _ZIP_LOCAL.size + name_length + extra_length
        if signature != b"PK\x03\x04" or file.read(name_length) != name.encode(encoding):
            raise ValueError(f"{printable(name)!r} is not where the archive says")
        if info.file_size != info.compress_size or info.header_offset < end or place + info.file_size > size:
            raise ValueError(f"{printable(name)!r} declares {info.file_size} bytes that are not there")
        end = place + info.file_size
        members[name] = (place, info.file_size)
    return members


def _read_legacy(file: IO[bytes], path: Path, size: int) -> dict[str, Any]:
    """Pickles in a row (magic number, version, system, content, storage keys), then the storages."""
    _, version, system = (load(Unpickler(file, {}), path, WHAT) for _ in range(3))
    if version != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        raise UnsafeFileError(
            f"{path}: of a version or byte order that no published model has; save it again"
        )
    content, storages = read_torch_pickle(file, path)
    placed, others = find_tensors(content, path)
    keys = load(Unpickler(file, {}), path, WHAT)
    if type(keys) is not list or any(type(key) is not str or key not in storages for key in keys):
        raise UnsafeFileError(f"{path}: its list of storages is damaged; download the file again")
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        count = struct.unpack("<q", file.read(8).ljust(8, b"\xff"))[0]
        length = count * storages[key].item_bytes
        places[key] = (file.tell(), length)
        if count < 0 or file.tell() + length > size:
            raise UnsafeFileError(f"{path}: ends within storage {printable(key)!r}; download the file again")
        file.seek(length, os.SEEK_CUR)

    def start(key: str, stored: int) -> int:
        place, length = places.get(key, (0, -1))
        if length != stored:
            raise ValueError(f"storage {printable(key)!r} of {stored} bytes has {max(length, 0)} in the file")
        return place

    return {"tensors": _entries(placed, start, path), "others": others[:64]}


def _entries(placed: dict[str, Placed], start: Callable[[str, int], int], path: Path) -> list[Entry]:
    """Places in the file from places in storages; `start` gives that of a storage, checking its size."""
    entries: list[Entry] = []
    for key, tensor in placed.items():
        storage, item = tensor.storage, ITEM_BYTES[tensor.dtype]
        stored = storage.count * storage.item_bytes
        try:
            at = start(storage.key, stored) + tensor.offset * item
        except ValueError as error:
            raise UnsafeFileError(f"{path}: '{printable(key)}': {error}; download the file again") from None
        if tensor.span > 4 * math.prod(tensor.shape) * item + 2**20:
            raise UnsafeFileError(
                f"{path}: '{printable(key)}' is strewn over its storage; save the file again"
            )
        entries.append((key, tensor.dtype, tensor.shape, tensor.stride, at))
    return entries


def main() -> None:
    """Command line: FILE. Prints the index as JSON, or `error` when the file was refused."""
    (source,) = sys.argv[1:]
    serve(lambda: index_weights(Path(source)), source, limits=LIMITS, what=WHAT)


if __name__ == "__main__":
    main()
