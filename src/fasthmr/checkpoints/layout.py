"""What a published weight file looks like from outside: enough to name its model before loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasthmr.checkpoints.keymap import KeyTable, Shapes

__all__ = ["Layout", "Shapes"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A published file layout.

    Attributes:
        name: What it is called in messages, such as "4D-Humans (HMR 2.0)".
        table: Its key names.
        matches: Whether a file with these shapes has the layout.
        config: The model configuration that shapes and path of a file say; what shapes cannot tell (heads)
            come from the path or from what was published.
        preset: Name of the preset that the shapes fit, or None when the sizes are nobody's.
        licence: Terms that go with the weights.
    """

    name: str
    table: KeyTable
    matches: Callable[[Shapes], bool]
    config: Callable[[Shapes, Path], Any]
    preset: Callable[[Shapes], str | None]
    licence: str
