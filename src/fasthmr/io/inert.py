"""Unpickling in which nothing of the file runs: every name it may use becomes a record that does nothing.

Normally a pickle calls whatever it asks for. Here a closed table says which global names may occur and which
inert stand-in each becomes; every other name is refused. What the stand-ins mean is worked out afterwards.
The opcodes alone can still ask for memory or time without end, so a stranger's file belongs in a limited
process (`fasthmr.io.isolated`). This module imports neither numpy nor torch.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fasthmr.errors import UnsafeFileError

GlobalTable = Mapping[tuple[str, str], Any]
"""Stand-in for each (module, name) that a file may use."""


class Record:
    """What a call, instance or type of the file becomes: its arguments and its state, nothing else."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Any:
        self = object.__new__(cls)
        self.args = args
        self.state = None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Token(Record):
    """A name that may be mentioned but has no value of use (`ndarray`, `object`, `set`)."""


class Encode(Record):
    """`_codecs.encode(text, "latin1")`: how Python 3 writes bytes with protocols 0 to 2."""

    def __new__(cls, *args: Any) -> Any:
        if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("an unexpected text encoding")
        return args[0].encode("latin-1")


class Unpickler(pickle.Unpickler):
    """Gives the stand-ins of a closed table. Names stay as Python 2 or 3 wrote them: the table has them."""

    def __init__(self, file: IO[bytes], table: GlobalTable) -> None:
        super().__init__(file, fix_imports=False, encoding="latin1")  # Python 2 strings as latin-1 text
        self._table = table

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._table[module_name, global_name]
        except (KeyError, TypeError):
            raise _Refused(printable(f"{module_name}.{global_name}")) from None


class _Refused(pickle.UnpicklingError):
    """The file names something outside the table."""


def load(unpickler: Unpickler, path: Path, what: str) -> Any:
    """The next pickle of a file, with every failure as one typed error.

    Args:
        path: Named in errors.
        what: "body file" or the like, for messages.

    Raises:
        UnsafeFileError: The file names a global outside the table, is damaged or needs too much memory.
    """
    try:
        return unpickler.load()
    except _Refused as error:
        raise UnsafeFileError(
            f"{path}: refused, it asks for {error}, which no {what} needs; nothing was run. "
            "Get the file from its publisher."
        ) from None
    except MemoryError:
        raise UnsafeFileError(f"{path}: asks for more memory than a {what} needs") from None
    except Exception as error:  # noqa: BLE001 - a malformed pickle raises anything: Unicode, index, ...
        raise UnsafeFileError(
            f"{path}: not a readable pickle ({type(error).__name__}: {printable(error)}); "
            "download the file again"
        ) from None


def printable(text: object, limit: int = 80) -> str:
    """Text of a stranger made fit for a terminal: ASCII, one line, cut to `limit` characters."""
    return str(text)[:limit].encode("ascii", "backslashreplace").decode().translate(_CONTROL_ESCAPES)


_CONTROL_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
