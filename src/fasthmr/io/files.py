"""What a file must be before anything looks inside."""

from __future__ import annotations

from pathlib import Path

from fasthmr.errors import InputError


def require_file(path: Path, kind: str) -> None:
    """Refuses what is no regular file that can be read and holds something.

    Args:
        kind: What was expected, for the message, such as "picture".

    Raises:
        InputError: As said.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, a {kind} file was expected")
        if not path.exists():
            raise InputError(f"{path}: no such file")
        if not path.is_file():
            raise InputError(f"{path}: not a regular file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes)")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
