"""The store of rendered records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fasthmr.data import shards, synthetic
from fasthmr.data.synthetic import SyntheticPeople
from fasthmr.errors import InputError


def test_shards_are_written_once_and_read_back(
    people: SyntheticPeople, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "SyntheticPeople", lambda **_: people)
    assert shards.write_shards({"split": "train"}, tmp_path, 5, start=8, records_per_shard=3) == 2
    stored = shards.load_shards(tmp_path)
    assert [len(shard.rgbm) for shard in stored] == [3, 2]
    np.testing.assert_array_equal(np.concatenate([s.labels["index"] for s in stored]), np.arange(8, 13))
    record = people.record(12)
    np.testing.assert_array_equal(stored[1].rgbm[1, ..., :3], record.rgb)
    np.testing.assert_array_equal(stored[1].rgbm[1, ..., 3], record.mask)
    np.testing.assert_allclose(stored[1].labels["points_2d"][1], record.points_2d, rtol=1e-6)
    assert stored[1].labels["action"][1] == record.action
    (tmp_path / "00001.labels.npz").unlink()
    assert len(shards.load_shards(tmp_path)) == 1
    assert shards.write_shards({"split": "train"}, tmp_path, 5, start=8, records_per_shard=3) == 1
    assert not list(tmp_path.glob("*.part*"))


def test_an_empty_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete shard"):
        shards.load_shards(tmp_path)
