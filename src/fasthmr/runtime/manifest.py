"""What a run has finished, as a file that only grows, so that a broken run can be taken up again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fasthmr.errors import ResourceError

FILE_NAME = "manifest.jsonl"


class Manifest:
    """One JSON line for each finished picture, keyed by path, size, time of change and settings.

    A torn last line, as a killed run leaves it, counts as not written.

    Args:
        folder: Where the results go.
        settings: Digest of everything that shapes the results.
        resume: Keep what a former run wrote; otherwise start anew.
    """

    def __init__(self, folder: Path, settings: str, *, resume: bool) -> None:
        self.path = folder / FILE_NAME
        self._settings = settings
        self._done: dict[str, tuple[str, ...]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if resume and self.path.exists():
                self._read()
            else:
                self.path.write_bytes(b"")
        except OSError as error:
            raise ResourceError(
                f"cannot write {self.path} ({error.strerror}); choose another folder"
            ) from error

    def finished(self, picture: Path) -> tuple[str, ...] | None:
        """Names of the results of a picture when they are complete and still there."""
        outputs = self._done.get(self._key(picture))
        if outputs is None or not all((self.path.parent / name).exists() for name in outputs):
            return None
        return outputs

    def add(self, picture: Path, status: str, outputs: Sequence[str] = (), error: str | None = None) -> None:
        """Appends a line and waits until it is on the disk."""
        entry = {
            "picture": str(picture),
            "status": status,
            "key": self._key(picture),
            "outputs": list(outputs),
        }
        if error is not None:
            entry["error"] = error
        line = json.dumps(entry).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            raise ResourceError(
                f"cannot write {self.path} ({problem.strerror}); free some space"
            ) from problem
        if status == "ok":
            self._done[entry["key"]] = tuple(outputs)

    def _key(self, picture: Path) -> str:
        try:
            state = picture.stat()
            identity = [state.st_size, state.st_mtime_ns]
        except (OSError, ValueError):
            identity = []
        text = json.dumps([os.fsdecode(os.path.abspath(picture)), identity, self._settings])
        return hashlib.sha256(text.encode()).hexdigest()

    def _read(self) -> None:
        content = self.path.read_bytes()
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                if entry["status"] == "ok":
                    self._done[str(entry["key"])] = tuple(str(name) for name in entry["outputs"])
            except (ValueError, KeyError, TypeError):
                continue
        if content and not content.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")


def module_digest(module: nn.Module) -> str:
    """Digest of all weights and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
