from __future__ import annotations

import torch
from safetensors.torch import load_file

from fasthmr.training.chunks import write_chunks


def test_complete_files_stay_and_a_short_one_is_made_anew(tmp_path):
    made: list[list[int]] = []

    def make(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        made.append(rows.tolist())
        return {"number": rows, "square": rows[:, None] ** 2}

    write_chunks(tmp_path, 50, 40, make)
    assert [len(rows) for rows in made] == [32, 8, 10]
    write_chunks(tmp_path, 70, 40, make)
    assert made[3:] == [list(range(40, 70))]
    write_chunks(tmp_path, 10, 40, make)
    assert len(made) == 4
    files = [load_file(path) for path in sorted(tmp_path.iterdir())]
    assert torch.cat([file["number"] for file in files]).tolist() == list(range(70))
    assert torch.equal(files[1]["square"][:, 0], torch.arange(40, 70) ** 2)
