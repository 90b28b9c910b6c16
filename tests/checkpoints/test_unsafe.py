"""Weight and body files that attack: refused with exit code 4, nothing run, no memory taken."""

from __future__ import annotations

import argparse
import io
import json
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fasthmr import cli
from fasthmr.errors import UnsafeFileError
from fasthmr.io.isolated import Limits
from fasthmr.io.weight_index import LIMITS
from fasthmr.zoo import create_model, load_model
from tests.checkpoints.peak_memory import peak_growth
from tests.checkpoints.torch_archive import archive, old_file, tensor
from tests.io.attacks import call, fuzz, pickles_that_exhaust, pickles_with_code, stack_global
from tests.io.legacy_pickle import Csc, Select, body_arrays, legacy_dumps

Write = Callable[[Path], object]


@contextmanager
def bounded(canary: Path) -> Iterator[None]:
    """Under 5 s and 50 MB in this process, and the canary is not written."""
    start = time.perf_counter()
    with peak_growth() as grown:
        yield
    assert time.perf_counter() - start < 5
    assert grown.kib < 50 * 1024
    assert not canary.exists()


def refused_by_the_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    out = path.with_name("out.safetensors")
    code = cli.main(["import", str(path), "--out", str(out)])
    message = capsys.readouterr().err
    assert code == 4, message
    assert message.startswith("fasthmr: ") and str(path) in message
    assert "no known layout" not in message  # what is wrong is found before the names matter
    assert not out.exists()
    return message


# Pickles


CODE = pickles_with_code(Path("canary"))
EXHAUSTING = pickles_that_exhaust()
NAMES = {
    "dotted listed name": stack_global("torch", "FloatStorage.__init__.__globals__", "a"),
    "sibling of a listed name": call("torch._utils", "_rebuild_xla_tensor", "a"),
    "nested torch.load": call("torch.storage", "_load_from_bytes", "a"),
    "chumpy in weights": call("chumpy.ch", "Ch", "a"),
    "module of a listed name": call("yacs", "config", "a"),
    "instance of another type": b"ccopy_reg\n_reconstructor\n(ctorch\nFloatStorage\nNNtR.",
    "call of a number type": call("torch", "float32", "a"),
    "persistent id of another kind": b"\x80\x02(Vmodule\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ.",
    "storage of negative size": tensor(count=-1),
    "storage of vast size": tensor(count=2**62),
    "shape beyond the storage": tensor(shape="I3\nI2\nt"),
    "vast shape": tensor(shape=f"I{2**40}\nI{2**40}\nt"),
    "stride beyond the storage": tensor(stride="I3\nI1\nt"),
    "negative stride": tensor(stride="I-1\nI1\nt"),
    "zero stride of vast shape": tensor(shape=f"I{2**40}\nI2\nt", stride="I0\nI0\nt"),
    "offset beyond the storage": tensor(offset=1),
    "negative offset": tensor(offset=-4),
    "stride of another length": tensor(stride="I1\nt"),
    "shape of texts": tensor(shape="Va\nI2\nt"),
    "storage that is not there": tensor(key="7"),
    "storage with a path as key": tensor(key="../../data/0"),
    "storage of another size than its member": tensor(count=8),
    "complex numbers": tensor(kind="ComplexFloatStorage"),
    "parameter that is no tensor": b"\x80\x02}Vw\nctorch._utils\n_rebuild_parameter\n(Va\nI00\nNtRs.",
    "entry that is no tensor": b"\x80\x02}Vw\nVtext\ns.",
    "key that is no text": b"\x80\x02}I1\nI2\ns.",
    "no dictionary": b"\x80\x02]Va\na.",
    "nothing in it": b"\x80\x02}.",
    "long name": tensor().replace(b"Vw\n", b"V" + b"w" * 500 + b"\n"),
}


@pytest.mark.parametrize("name", [*CODE, *EXHAUSTING, *NAMES])
def test_archives_with_a_hostile_pickle(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    content = {**pickles_with_code(canary), **EXHAUSTING, **NAMES}[name]
    path = archive(tmp_path / "w.ckpt", content)
    with bounded(canary):
        refused_by_the_command_line(path, capsys)


@pytest.mark.parametrize("name", [*CODE, "memo index", "vast length", "storage of vast size", "vast shape"])
def test_old_files_with_a_hostile_pickle(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    content = {**pickles_with_code(canary), **EXHAUSTING, **NAMES}[name]
    path = old_file(tmp_path / "w.pth", content)
    for use in (load_model, lambda path: create_model("hmr2_vit_s", checkpoint=path)):
        with bounded(canary), pytest.raises(UnsafeFileError, match=r"w\.pth"):
            use(path)


@pytest.mark.parametrize("name", CODE)
def test_code_in_body_files(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "body.pkl"
    path.write_bytes(pickles_with_code(canary)[name])
    with bounded(canary):
        refused_by_the_command_line(path, capsys)


def recursive_selection(path: Path) -> None:
    loop = Select(None, np.arange(3), (3,))
    loop.a = loop
    path.write_bytes(legacy_dumps({**body_arrays(16), "shapedirs": loop}, 2))


def sparse_out_of_range(path: Path) -> None:
    arrays = body_arrays(16)
    sparse = Csc(arrays["J_regressor"])
    sparse.indices = sparse.indices + 1000
    path.write_bytes(legacy_dumps({**arrays, "J_regressor": sparse}, 2))


def lying_npz(path: Path) -> None:
    header = repr({"descr": "<f8", "fortran_order": False, "shape": (2**33,)}).encode()
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as file:
        member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        assert len(member) == 128
        file.writestr("v_template.npy", member)


@pytest.mark.parametrize("write", [recursive_selection, sparse_out_of_range, lying_npz])
def test_lying_body_files(tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "body.pkl")
    (path,) = tmp_path.iterdir()
    with bounded(tmp_path / "canary"):
        refused_by_the_command_line(path, capsys)


def test_a_hash_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuple of two references to the tuple before it, 60 deep: hashing it takes 2**60 steps."""
    path = archive(tmp_path / "w.ckpt", b"\x80\x04)" + b"\x942\x86" * 60 + b"\x94}h\x3cK\x01s.")
    limits = Limits(memory_bytes=LIMITS.memory_bytes, cpu_seconds=60, wall_seconds=1)
    monkeypatch.setattr("fasthmr.checkpoints.files.LIMITS", limits)
    with bounded(tmp_path / "canary"), pytest.raises(UnsafeFileError, match="not read within 1 s"):
        load_model(path)


# Archives


def named(name: str) -> Write:
    return lambda path: archive(path, tensor(), {"archive/data/0": bytes(16), name: b"x"})


def twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, tensor(), {"archive/data/0": bytes(16), "archive/version": b"3\n"})


def compressed(path: Path) -> None:
    archive(path, tensor(), compression=zipfile.ZIP_DEFLATED)


def nested(path: Path) -> None:
    inner = archive(path.with_name("inner"), CODE["os.system"]).read_bytes()
    archive(path, inner)


def program(path: Path) -> None:
    archive(path, tensor(), {"archive/data/0": bytes(16), "archive/constants.pkl": b"N."})


def big_endian(path: Path) -> None:
    archive(path, tensor(), {"archive/data/0": bytes(16), "archive/byteorder": b"big"})


def without_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


class SparseOutsideItsShape:
    def __reduce__(self) -> tuple[object, ...]:
        parts = (torch.tensor([[7]]), torch.ones(1), (4,), False)
        return torch._utils._rebuild_sparse_tensor, (torch.sparse_coo, parts)


def longer_than_it_is(path: Path) -> None:
    """The directory at the end says 2 GB where 16 bytes are stored."""
    data = bytearray(archive(path, tensor(count=2**29)).read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(data)


def overlapping(path: Path) -> None:
    """Two names for the same bytes."""
    data = bytearray(archive(path, tensor()).read_bytes())
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    data[entries[-1] + 42 : entries[-1] + 46] = data[entries[0] + 42 : entries[0] + 46]
    path.write_bytes(data)


def old_tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(CODE["os.system"])
            file.addfile(info, io.BytesIO(CODE["os.system"]))


def header(content: object, data: bytes = bytes(16)) -> Write:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}


DAMAGED: dict[str, Write] = {
    "absolute name": named("/etc/passwd"),
    "climbing name": named("archive/../../x"),
    "drive name": named("C:/x"),
    "climbing name with backslashes": named("archive\\..\\..\\x"),
    "two members of one name": twice,
    "compressed members": compressed,
    "an archive in the archive": nested,
    "a program": program,
    "another byte order": big_endian,
    "no pickle": without_pickle,
    "sparse tensor with indices out of range": lambda path: torch.save({"w": SparseOutsideItsShape()}, path),
    "a member longer than it is": longer_than_it_is,
    "members that overlap": overlapping,
    "the tar format": old_tar,
    "gzip": lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(600)),
    "text": lambda path: path.write_text("Not found"),
    "empty": lambda path: path.touch(),
    "half an archive": lambda path: path.write_bytes(archive(path, tensor()).read_bytes()[:-30]),
    "half an old file": lambda path: old_file(path, tensor(), b"\x80\x02]V0\na." + struct.pack("<q", 4)),
    "old storages of negative length": lambda path: old_file(
        path, tensor(), b"\x80\x02]V0\na." + struct.pack("<q", -4) + bytes(16)
    ),
    "old file without its storages": lambda path: old_file(path, tensor(), b"\x80\x02]."),
    "vast header": lambda path: path.write_bytes(struct.pack("<Q", 2**40) + b"{" + bytes(64)),
    "deep header": header(b'{"a":' + b"[" * 10**6),
    "false shape": header({"w": entry(shape=[2, 3])}),
    "negative shape": header({"w": entry(shape=[-2, -2])}),
    "shape that overflows": header({"w": entry(shape=[2**40, 2**40])}),
    "unknown type": header({"w": entry(dtype="F8")}),
    "overlap": header({"a": entry(), "b": entry()}),
    "gap": header({"a": entry(), "b": entry(data_offsets=[20, 36])}, bytes(36)),
    "rest": header({"a": entry()}, bytes(20)),
    "one name twice": header(b'{"w":%s,"w":%s}' % (json.dumps(entry()).encode(), b"{}")),
    "metadata of numbers": header({"w": entry(), "__metadata__": {"a": 1}}),
    "half of safetensors": lambda path: path.write_bytes(save({"w": torch.ones(100)})[:-8]),
    "no tensors": header({}, b""),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_and_lying_files(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.ckpt"
    DAMAGED[name](path)
    canary = Path("canary")
    with bounded(canary):
        refused_by_the_command_line(path, capsys)
    with bounded(canary), pytest.raises(UnsafeFileError, match=r"w\.ckpt"):
        create_model("hmr2_vit_s", checkpoint=path)


def test_a_good_archive_of_the_same_pieces(tmp_path: Path) -> None:
    """Otherwise the refusals would prove nothing."""
    from fasthmr.checkpoints.files import read_weights

    data = np.arange(4, dtype=np.float32).tobytes()
    for path in (
        archive(tmp_path / "w.ckpt", tensor(), {"archive/data/0": data, "archive/größe 12:30": b""}),
        old_file(tmp_path / "w.pth", tensor(), b"\x80\x02]V0\na." + struct.pack("<q", 4) + data),
    ):
        assert read_weights(path)[0]["w"].tolist() == [[0, 1], [2, 3]]


def test_a_configuration_that_claims_any_depth(tmp_path: Path) -> None:
    config = {"type": "ViTConfig", "dim": 8, "depth": 10**6, "heads": 1}
    header({"w": entry(), "__metadata__": {"config": json.dumps(config)}})(tmp_path / "w.safetensors")
    with bounded(tmp_path / "canary"), pytest.raises(UnsafeFileError, match="do not fill the model"):
        load_model(tmp_path / "w.safetensors")
    vast = [json.dumps({**config, key: 10**9}) for key in ("dim", "depth", "patch_size")]
    head = json.dumps({"type": "HMRConfig", "encoder": "x", "head": 3})
    for text in (
        "{}",
        "[",
        "1",
        '{"type": "os.system"}',
        '{"type": ["ViTConfig"]}',
        "1" * 10**5,
        head,
        *vast,
    ):
        header({"w": entry(), "__metadata__": {"config": text}})(tmp_path / "w.safetensors")
        with bounded(tmp_path / "canary"), pytest.raises(UnsafeFileError):
            load_model(tmp_path / "w.safetensors")


def test_damaged_bytes_raise_only_the_declared_error(tmp_path: Path) -> None:
    """Byte mutations of good files, under the limits of the reading process."""
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    weights = {"a": torch.ones(3), "b": torch.nn.Parameter(torch.ones(2, 2)), "c": torch.tensor(True)}
    content = {"state_dict": weights, "epoch": 1, "args": argparse.Namespace(a=1)}
    torch.save(content, seeds / "new.ckpt")
    torch.save(content, seeds / "old.ckpt", _use_new_zipfile_serialization=False)
    (seeds / "w.safetensors").write_bytes(save({"a": torch.ones(3), "b": torch.ones(2, 2)}))
    refused, accepted = fuzz(seeds, "fasthmr.io.weight_index", "index_weights", 3)
    assert refused > 100 and accepted > 0
