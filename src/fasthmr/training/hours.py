"""Processor time of runs, noted in their folders so that stopped runs go on counting."""

from __future__ import annotations

import json
import time
from pathlib import Path

from fasthmr.io.atomic import write_bytes

_FILE = "hours.json"


class HourCounter:
    """Counts what this process spends on a run, on top of what was noted before.

    Args:
        folder: Of the run.
        start: Weights that it starts from; what is noted beside them counts as well.
    """

    def __init__(self, folder: Path, start: Path | None = None) -> None:
        self._folder = folder
        before = [folder, *([] if start is None else [start.parent])]
        self._before = next((noted_hours(place) for place in before if (place / _FILE).is_file()), 0.0)
        self._began = time.process_time()

    def note(self) -> None:
        """Write the hours so far into the folder."""
        spent = self._before + (time.process_time() - self._began) / 3600
        write_bytes(self._folder / _FILE, json.dumps({"hours": spent}).encode())


def noted_hours(folder: Path) -> float:
    """Hours of one core that the run of a folder has taken."""
    return json.loads((folder / _FILE).read_text())["hours"]
