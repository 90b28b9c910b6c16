"""Writes PyTorch archives and pickles piece by piece, so that any piece can be wrong."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

MAGIC = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001))
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)


def archive(path: Path, content: bytes, members: Mapping[str, bytes] | None = None, **options: int) -> Path:
    """A torch.save zip with this pickle and these further members, named in full."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", b"3\n")
        for name, data in (members or {"archive/data/0": bytes(16)}).items():
            file.writestr(name, data)
    return path


def old_file(path: Path, content: bytes, storages: bytes = b"") -> Path:
    """What torch.save wrote before 1.6."""
    path.write_bytes(MAGIC + SYSTEM + content + storages)
    return path


def tensor(
    shape: str = "I2\nI2\nt",
    stride: str = "I2\nI1\nt",
    *,
    offset: int = 0,
    count: int = 4,
    key: str = "0",
    kind: str = "FloatStorage",
    rebuild: str = "torch._utils\n_rebuild_tensor_v2",
) -> bytes:
    """Opcodes of a state dict {"w": tensor}; shape and stride are opcodes that end a tuple."""
    storage = f"((Vstorage\nctorch\n{kind}\nV{key}\nVcpu\nI{count}\ntQ"
    return (
        f"\x80\x02}}Vw\nc{rebuild}\n{storage}I{offset}\n({shape}({stride}I00\nN".encode("latin-1") + b"tRs."
    )


def state_dict(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of every kind that checkpoints hold."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(6, 8, generator=generator)
    return {
        "whole": base,
        "columns": base[:, 2:5],
        "transposed": base.T,
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "half": base[0].half(),
        "bfloat16": base[1].bfloat16(),
        "double": base[2].double(),
        "long": torch.arange(5),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "channels_last": torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
    }
