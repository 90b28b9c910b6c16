"""Files appear complete or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from fasthmr.errors import ResourceError
from fasthmr.io.atomic import atomic_path, write_bytes


def test_new_file_in_a_new_folder(tmp_path: Path) -> None:
    final = tmp_path / "a" / "b" / "out.bin"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"data")
        assert not final.exists()
    assert final.read_bytes() == b"data"
    assert os.listdir(final.parent) == ["out.bin"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    final = write_bytes(tmp_path / "out.bin", b"old")
    with pytest.raises(KeyError), atomic_path(final) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError("stop")
    assert final.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_full_disk_is_a_resource_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match=r"out\.bin.*full"),
        atomic_path(tmp_path / "out.bin") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_file_size_limit_is_a_resource_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ResourceError):
            write_bytes(tmp_path / "out.bin", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ResourceError, match="a part of the path is a file"):
        write_bytes(tmp_path / "file" / "out.bin", b"data")
    (tmp_path / "folder.bin").mkdir()
    with pytest.raises(ResourceError, match="it is a folder"):
        write_bytes(tmp_path / "folder.bin", b"data")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.bin"]


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out.bin"):
        pass
