"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fasthmr.errors import ResourceError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REMEDY = {
    **dict.fromkeys(_FULL, "the disk or quota is full; free some space or choose another folder"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "no permission; choose another folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of the path is a file; choose another folder"),
    errno.EISDIR: "it is a folder; choose another name",
}


@contextmanager
def atomic_path(final: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `final` that takes its name when the block succeeds.

    The temporary file keeps the suffix. Missing folders are made. When the block raises, the
    temporary file is removed and a file already at `final` stays as it was.

    Raises:
        ResourceError: the disk is full, or the place cannot be written.
    """
    final = Path(final)
    temporary = final.with_name(f".{final.stem[:100]}.{uuid.uuid4().hex[:8]}{final.suffix}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, final)
    except OSError as error:
        if error.errno not in _REMEDY:
            raise
        raise ResourceError(f"cannot write {final}: {_REMEDY[error.errno]}") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_bytes(final: str | Path, data: bytes) -> Path:
    """Writes a whole file at once, see `atomic_path`."""
    with atomic_path(final) as temporary:
        temporary.write_bytes(data)
    return Path(final)


def _flush(path: Path) -> None:
    """Waits until the file is on the disk, where a late failure to write shows."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
