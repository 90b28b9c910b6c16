"""`python -m fasthmr` is the command `fasthmr`."""

from __future__ import annotations

from fasthmr.cli import entry

entry()
