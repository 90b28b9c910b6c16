"""One source of synthetic people for all tests of the engine: building it reads all textures."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def people():
    """Training people from the package's own data, with the renderer that this machine offers."""
    from fasthmr.data.synthetic import SyntheticPeople

    return SyntheticPeople("train", seed=3, size=(96, 96))
