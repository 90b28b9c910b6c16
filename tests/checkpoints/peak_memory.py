"""How much memory this process took at most, where Linux tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Growth:
    """Filled in when the block ends; 0 where the system does not tell."""

    kib: int = 0


@contextmanager
def peak_growth() -> Iterator[Growth]:
    """Growth of the peak of resident memory during the block."""
    growth = Growth()
    if not _CLEAR.exists():
        yield growth
        return
    _CLEAR.write_text("5")  # the peak starts anew
    before = _peak_kib()
    yield growth
    growth.kib = _peak_kib() - before


def _peak_kib() -> int:
    return int(next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
