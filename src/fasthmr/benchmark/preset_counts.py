"""What every preset counts, worked out once and kept beside this file, so that listings need not count.

An entry stands for one configuration: a preset whose configuration has changed is counted again. After a
change of code that changes counts, `python -m fasthmr.benchmark.preset_counts` writes the file anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fasthmr.benchmark.counters import Counts, build_for_counting, count, example_inputs
from fasthmr.io.atomic import write_bytes
from fasthmr.zoo import list_models, preset
from fasthmr.zoo.registry import ModelConfig

_FILE = "preset_counts.json"


@dataclass(frozen=True, kw_only=True)
class PresetCounts:
    """Counts of a preset for one person or clip.

    Attributes:
        image_size: Height and width of its input, of models of motion frames and numbers of a frame.
    """

    counts: Counts
    image_size: tuple[int, int]


def preset_counts(name: str) -> PresetCounts:
    """Counts of a preset, from the file if it knows this configuration.

    Raises:
        UsageError: There is no such preset.
    """
    return stored_counts(name) or _count(preset(name).config())


def stored_counts(name: str) -> PresetCounts | None:
    """Counts of a preset from the file; None where it does not know this configuration.

    Raises:
        UsageError: There is no such preset.
    """
    config = preset(name).config()
    entry = _stored().get(name)
    if entry is None or entry["config"] != _fingerprint(config):
        return None
    height, width = entry["image_size"]
    return PresetCounts(counts=Counts(**entry["counts"]), image_size=(height, width))


def _count(config: ModelConfig) -> PresetCounts:
    model = build_for_counting(config)
    height, width = example_inputs(model)[0].shape[-2:]
    return PresetCounts(counts=count(model, in_place=True), image_size=(height, width))


def _fingerprint(config: ModelConfig) -> str:
    """A digest of a configuration and of what is counted, to know them again."""
    counted = [field.name for field in fields(Counts)]
    return hashlib.sha256(f"{counted} {config}".encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _stored() -> dict[str, dict[str, Any]]:
    return json.loads(files("fasthmr.benchmark").joinpath(_FILE).read_text(encoding="utf-8"))


def main() -> None:
    """Count all presets and write the file."""
    entries = {}
    for name in list_models():
        config = preset(name).config()
        entries[name] = {"config": _fingerprint(config), **asdict(_count(config))}
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()]
    write_bytes(Path(__file__).with_name(_FILE), ("{\n" + ",\n".join(lines) + "\n}\n").encode())


if __name__ == "__main__":
    main()
