"""What a PyTorch checkpoint says about its tensors, without PyTorch and without running what it names.

The pickle of a checkpoint is a program that rebuilds tensors from numbered storages. Here its names become
inert records (`fasthmr.io.inert`), and what is left is where each tensor of the state dict lies. Settings and
optimizer state that training frameworks keep beside it (yacs, omegaconf, argparse ...) are read as empty
stand-ins and dropped.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fasthmr.errors import UnsafeFileError
from fasthmr.io.inert import Encode, Record, Token, Unpickler, load, printable

WHAT = "weight file"
_WRAPPERS = ("state_dict", "model_ema", "model")
"""Keys under which training frameworks store the weights beside other things; running averages, which are
what is published of a training, before the weights of its last step."""

ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Number types by their safetensors name, and bytes of one number."""

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper() or 'I'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_OTHER_DTYPES = ("complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "qint8", "quint8", "qint32")


@dataclass(frozen=True)
class Named:
    """A number or storage type of PyTorch; `code` is None for those that are not supported."""

    name: str
    code: str | None


@dataclass(frozen=True)
class Storage:
    """Numbers in a row: `count` of them (bytes if `dtype` is None) under the name `key`."""

    key: str
    dtype: str | None
    count: int

    @property
    def item_bytes(self) -> int:
        return 1 if self.dtype is None else ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Placed:
    """A tensor inside a storage; `offset` and `stride` count elements."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def span(self) -> int:
        """Bytes from its first number to the end of its last."""
        if 0 in self.shape:
            return 0
        steps = ((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return (sum(steps) + 1) * ITEM_BYTES[self.dtype]


class _Dict(dict):
    """Any kind of dictionary; its settings beside the entries are dropped."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if args and isinstance(args[0], list):  # OrderedDict as Python 2 wrote it
            for pair in args[0]:
                key, value = pair
                self[key] = value

    def __setstate__(self, state: Any) -> None:
        del state


class _Tensor(Record):
    """`torch._utils._rebuild_tensor[_v2|_v3](storage, offset, shape, stride, ...)`."""


class _Parameter(Record):
    """`torch._utils._rebuild_parameter(tensor, ...)`: the tensor itself."""

    def __new__(cls, *args: Any) -> Any:
        if not args or not isinstance(args[0], _Tensor):
            raise pickle.UnpicklingError("a parameter that is no tensor")
        return args[0]


class _OtherTensor(Record):
    """Sparse, quantised and other tensors, which no published model has."""


class _Reconstructor(Record):
    """`copy_reg._reconstructor(type, base, state)`: an empty instance of a stand-in."""

    def __new__(cls, *args: Any) -> Any:
        if not args or args[0] not in (_Dict, Token):
            raise pickle.UnpicklingError("an instance of an unexpected type")
        return args[0]()


def _names(stand_in: Any, module: str, *names: str) -> dict[tuple[str, str], Any]:
    return {(module, name): stand_in for name in names}


_BUILTINS = ("set", "frozenset", "dict", "list", "tuple", "int", "float", "str", "bool", "bytes", "bytearray")
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_OMEGACONF_NODES = ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path", "Enum")
_LIGHTNING = ("pytorch_lightning.utilities.parsing", "lightning.pytorch.utilities.parsing")
_FABRIC = ("lightning_fabric.utilities.data", "lightning.fabric.utilities.data")

_GLOBALS: dict[tuple[str, str], Any] = {
    **{("torch", name): Named(name, code) for name, code in (*_STORAGES.items(), *_DTYPES.items())},
    **{("torch", name): Named(name, None) for name in _OTHER_DTYPES},
    **_names(Named("UntypedStorage", None), "torch.storage", "UntypedStorage", "TypedStorage"),
    **_names(_Tensor, "torch._utils", "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"),
    **_names(_Parameter, "torch._utils", "_rebuild_parameter", "_rebuild_parameter_with_state"),
    **_names(_OtherTensor, "torch._utils", "_rebuild_sparse_tensor", "_rebuild_qtensor"),
    **_names(_OtherTensor, "torch._utils", "_rebuild_meta_tensor_no_storage", "_rebuild_nested_tensor"),
    **_names(_OtherTensor, "torch._utils", "_rebuild_device_tensor_from_numpy"),
    **_names(Token, "torch", "Size", "device", "Tensor"),
    **_names(Token, "torch.nn.parameter", "Parameter"),
    **_names(Token, "torch.serialization", "_get_layout"),
    **_names(_Dict, "collections", "OrderedDict", "defaultdict", "Counter"),
    **_names(Token, "builtins", *_BUILTINS, "object", "complex", "slice", "range"),
    **_names(Token, "__builtin__", *_BUILTINS, "object", "complex", "slice", "xrange", "unicode", "long"),
    **_names(Encode, "_codecs", "encode"),
    **_names(_Reconstructor, "copy_reg", "_reconstructor"),
    **_names(_Reconstructor, "copyreg", "_reconstructor"),
    **{("pathlib", name): Token for name in _PATHS},
    **{("pathlib._local", name): Token for name in _PATHS},
    **_names(Token, "numpy", "dtype", "ndarray"),
    **{
        (f"numpy.{c}.multiarray", name): Token
        for c in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    },
    **_names(_Dict, "yacs.config", "CfgNode"),
    **_names(Token, "omegaconf.dictconfig", "DictConfig"),
    **_names(Token, "omegaconf.listconfig", "ListConfig"),
    **_names(Token, "omegaconf.base", "ContainerMetadata", "Metadata"),
    **_names(Token, "omegaconf.nodes", *(f"{name}Node" for name in _OMEGACONF_NODES)),
    **_names(Token, "typing", "Any", "Union", "Optional", "Dict", "List"),
    **_names(Token, "argparse", "Namespace"),
    **_names(Token, "types", "SimpleNamespace"),
    **{(module, "AttributeDict"): _Dict for module in (*_LIGHTNING, *_FABRIC)},
    **_names(_Dict, "easydict", "EasyDict"),
    **_names(_Dict, "mmcv.utils.config", "ConfigDict"),
    **_names(_Dict, "mmengine.config.config", "ConfigDict"),
}


class _TorchUnpickler(Unpickler):
    """Storages are named by tuples ("storage", type, key, device, count[, view of another storage])."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, _GLOBALS)
        self.storages: dict[str, Storage] = {}

    def persistent_load(self, pid: Any) -> Any:
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise pickle.UnpicklingError("a persistent id that names no storage")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(kind, Named) or type(key) is not str or not _natural(count):
            raise pickle.UnpicklingError("a storage without type, key and size")
        if len(pid) == 6 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage that is a view of another; save the file again")
        storage = Storage(key, kind.code, count)
        if self.storages.setdefault(key, storage) != storage:
            raise pickle.UnpicklingError("a storage with two types or sizes")
        return storage


def read_torch_pickle(file: IO[bytes], path: Path) -> tuple[Any, dict[str, Storage]]:
    """The content of a checkpoint's pickle as inert records, and every storage that it names.

    Raises:
        UnsafeFileError: It names something outside the table, or is damaged.
    """
    unpickler = _TorchUnpickler(file)
    return load(unpickler, path, WHAT), unpickler.storages


def find_tensors(content: Any, path: Path) -> tuple[dict[str, Placed], list[str]]:
    """Where the tensors of the state dict lie, and what else the file holds (names only).

    Raises:
        UnsafeFileError: There is no state dict, or an entry of it is no plain tensor within its storage.
    """
    others: list[str] = []
    if isinstance(content, dict):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                others = [printable(key) for key in content if key != wrapper]
                content = content[wrapper]
                break
    if not isinstance(content, dict) or not content:
        raise UnsafeFileError(f"{path}: holds no weights; expected the state dict of a model")
    wrong = [
        key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, _Tensor))
    ]
    if wrong:
        first = content[wrong[0]]
        kind = "sparse or quantised" if isinstance(first, _OtherTensor) else type(first).__name__.lstrip("_")
        raise UnsafeFileError(
            f"{path}: {len(wrong)} entries of its state dict are not plain tensors, first "
            f"{printable(wrong[0])!r} ({kind}); save the state dict of the model alone"
        )
    placed = {}
    for key, record in content.items():
        try:
            placed[key] = _place(record)
        except (ValueError, TypeError, OverflowError) as error:
            raise UnsafeFileError(
                f"{path}: '{printable(key)}' cannot be used: {error}; download the file again"
            ) from None
    return placed, others


def _place(record: _Tensor) -> Placed:
    """The tensor that a record describes, checked against its storage.

    Raises:
        ValueError: It is not plain, or reaches outside its storage.
    """
    if len(record.args) < 4 or not isinstance(record.args[0], Storage):
        raise ValueError("a tensor without storage, offset, shape and stride")
    storage, offset, shape, stride = record.args[:4]
    for sizes in (shape, stride):
        if type(sizes) is not tuple or len(sizes) > 8 or not all(map(_natural, sizes)):
            raise ValueError("its shape or stride is no short tuple of natural numbers")
    if len(shape) != len(stride) or not _natural(offset):
        raise ValueError("its offset, shape and stride do not belong together")
    typed = record.args[6] if storage.dtype is None and len(record.args) > 6 else None
    dtype = typed.code if isinstance(typed, Named) else storage.dtype
    if dtype is None:
        raise ValueError("its numbers are of a type that is not supported")
    placed = Placed(storage=storage, dtype=dtype, shape=shape, stride=stride, offset=offset)
    item = ITEM_BYTES[dtype]
    size = storage.count * storage.item_bytes
    if math.prod(shape) and offset * item + placed.span > size:
        raise ValueError(f"shape {shape} from {offset} on reaches outside its storage of {size} bytes")
    return placed


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48
