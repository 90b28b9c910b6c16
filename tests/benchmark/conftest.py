from __future__ import annotations

import pytest

from fasthmr.benchmark.listing import list_presets


@pytest.fixture(scope="session")
def rows() -> dict[str, dict]:
    """Every preset, as listed."""
    return {row["name"]: row for row in list_presets()}
