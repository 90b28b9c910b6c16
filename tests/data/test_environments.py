from __future__ import annotations

from pathlib import Path

import pytest

from fasthmr.data.environments import EnvironmentLibrary
from fasthmr.errors import InputError


def test_a_package_without_its_index_says_so(tmp_path: Path):
    with pytest.raises(InputError, match="reinstall"):
        EnvironmentLibrary.load(tmp_path, "train", package=tmp_path)
