from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse

from fasthmr import cli
from fasthmr.errors import InputError, UnsafeFileError, UsageError
from fasthmr.io.hierarchy_files import (
    is_hierarchy_file,
    load_hierarchy,
    load_hierarchy_file,
    save_hierarchy,
)
from tests.io.attacks import fuzz

SIZES = (12, 6, 3)


class Foreign:
    """Would run a command when a careless reader unpickles it."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def listed(entries) -> np.ndarray:
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


def published(folder, **changes):
    """A file in the published layout, with parts replaced."""
    rng = np.random.default_rng(0)
    adjacency, up, down = [], [], []
    for size in SIZES:
        ring = np.zeros((size, size))
        ring[np.arange(size), (np.arange(size) + 1) % size] = 2.0
        adjacency.append(sparse.csc_matrix(ring + ring.T + np.eye(size) * (size == 3)))
    for fine, coarse in ((12, 6), (6, 3)):
        kept = np.sort(rng.permutation(fine)[:coarse])
        select = np.zeros((coarse, fine))
        select[np.arange(coarse), kept] = 1
        dense = np.zeros((fine, coarse))
        for row in range(fine):
            dense[row, rng.permutation(coarse)[:3]] = rng.normal(size=3)
        up.append(sparse.csc_matrix(dense))
        down.append(sparse.csc_matrix(select))
    faces = [np.array([[0, 1, 2]], dtype=np.uint32) for _ in SIZES]
    parts = {"A": listed(adjacency), "U": listed(up), "D": listed(down), "F": listed(faces)} | changes
    path = folder / "mesh_downsampling.npz"
    np.savez(path, **{key: part for key, part in parts.items() if part is not None})
    return path, parts


def test_published_layout(tmp_path):
    path, parts = published(tmp_path, M=listed([Foreign(), 1]), V=None)
    hierarchy = load_hierarchy(path)
    assert hierarchy.sizes == SIZES and not (tmp_path / "pwned").exists()
    for i, up in enumerate(hierarchy.up):
        np.testing.assert_array_equal(up.to_dense().numpy(), parts["U"][i].toarray())
        assert parts["D"][i].toarray()[np.arange(SIZES[i + 1]), hierarchy.kept[i].numpy()].all()
    for i, matrix in enumerate(parts["A"]):
        expected = (matrix.toarray() != 0) | np.eye(SIZES[i], dtype=bool)
        np.testing.assert_array_equal(hierarchy.adjacency(i).numpy(), expected)
    assert hierarchy.faces[2].tolist() == [[0, 1, 2]]
    fine = hierarchy.upsample(torch.ones(2, 3, 3, dtype=torch.float64))
    assert torch.allclose(fine[0], hierarchy.up[0] @ (hierarchy.up[1] @ torch.ones(3, 3).double()))


def test_our_own_file(tmp_path):
    hierarchy = load_hierarchy(published(tmp_path, F=None)[0])
    save_hierarchy(hierarchy, tmp_path / "own.safetensors")
    again = load_hierarchy(tmp_path / "own.safetensors")
    assert again.sizes == SIZES and again.faces == (None, None, None)
    for ours, theirs in zip(again.up, hierarchy.up, strict=True):
        assert torch.equal(ours.to_dense(), theirs.to_dense())


def test_a_regressor_goes_with_it(tmp_path):
    hierarchy = load_hierarchy(published(tmp_path)[0])
    regressor = torch.rand(17, 12, generator=torch.Generator().manual_seed(0))
    save_hierarchy(hierarchy, tmp_path / "own.safetensors", regressor)
    file = load_hierarchy_file(tmp_path / "own.safetensors")
    assert file.regressor is not None and torch.equal(file.regressor, regressor.double())
    with pytest.raises(UsageError, match=r"reads 11 vertices.*has 12"):
        save_hierarchy(hierarchy, tmp_path / "own.safetensors", regressor[:, :11])


def test_import_of_a_published_file(tmp_path, capsys):
    path, _ = published(tmp_path, M=listed([Foreign(), 1]))
    np.save(tmp_path / "J_regressor.npy", np.full((17, 12), 1 / 12))
    out = tmp_path / "mesh.safetensors"
    assert cli.main(["import", str(path), "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert "recognised a mesh hierarchy of 12 > 6 > 3 vertices\n" in told
    assert f"--mesh {out}" in told.splitlines()[-1]
    assert load_hierarchy(out).sizes == SIZES and not (tmp_path / "pwned").exists()
    joints = ["--regressor", str(tmp_path / "J_regressor.npy")]
    assert cli.main(["import", str(out), "--out", str(tmp_path / "metro.safetensors"), *joints]) == 0
    assert "with a regressor of 17 joints" in capsys.readouterr().err
    regressor = load_hierarchy_file(tmp_path / "metro.safetensors").regressor
    assert regressor is not None and regressor.shape == (17, 12)


def test_import_says_what_does_not_fit(tmp_path, capsys):
    path, _ = published(tmp_path)
    np.save(tmp_path / "other.npy", np.ones((17, 11)))
    joints = ["--regressor", str(tmp_path / "other.npy")]
    assert cli.main(["import", str(path), *joints]) == 2
    assert "reads 11 vertices, the finest level of the mesh hierarchy has 12" in capsys.readouterr().err
    assert cli.main(["import", str(path), "--preset", "metro_r50"]) == 2
    assert "a mesh hierarchy; --intrinsics and --preset are for weights" in capsys.readouterr().err
    assert cli.main(["import", str(tmp_path / "other.npy"), *joints]) == 2
    assert "no mesh hierarchy; --regressor is for these" in capsys.readouterr().err
    bad, _ = published(tmp_path, A=listed([foreign_matrix(), 1]))
    assert cli.main(["import", str(bad)]) == 4
    assert "nothing was run" in capsys.readouterr().err and not (tmp_path / "pwned").exists()


def test_other_files_are_no_hierarchies(tmp_path):
    np.savez(tmp_path / "body.npz", v_template=np.zeros(3))
    (tmp_path / "text.safetensors").write_text("nothing")
    save_file({"sizes": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("body.npz", "text.safetensors", "other.safetensors", "missing.npz"):
        assert not is_hierarchy_file(tmp_path / name)


def foreign_matrix():
    matrix = sparse.csc_matrix(np.eye(3))
    matrix.maxprint = Foreign()
    return matrix


def odd_selection():
    return listed([sparse.csc_matrix(np.ones((6, 12))), sparse.csc_matrix(np.eye(3, 6))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": listed([foreign_matrix(), 1])}, "nothing was run"),
        ({"A": listed([sparse.csr_matrix(np.eye(3)), 1])}, "csr_matrix"),
        ({"A": listed(["text", 1])}, "not an array"),
        ({"A": np.ones(3)}, "no list of matrices"),
        ({"U": None}, "U missing"),
        ({"D": odd_selection()}, "does not select one vertex"),
        (
            {"U": listed([sparse.csc_matrix(np.eye(12, 6)), sparse.csc_matrix(np.eye(6, 3))])},
            "without a value",
        ),
        (
            {"U": listed([sparse.csc_matrix(np.eye(9, 6)), sparse.csc_matrix(np.eye(6, 3))])},
            "between 12 and 6",
        ),
        ({"F": listed([np.array([[0, 1, 12]]), np.zeros((0, 3)), 0])}, "cannot be used"),
    ],
)
def test_bad_files(tmp_path, changes, message):
    path, _ = published(tmp_path, **changes)
    with pytest.raises(UnsafeFileError, match=message) as refused:
        load_hierarchy(path)
    assert refused.value.exit_code == 4 and str(path) in str(refused.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kept0", torch.full((6,), 12)),
        ("up0.val", torch.full((36,), torch.nan, dtype=torch.float64)),
        ("sizes", torch.tensor([12, 12, 3])),
        ("edges1", torch.tensor([[0, 6]])),
        ("other", torch.zeros(1)),
        ("regressor", torch.zeros(17, 11, dtype=torch.float64)),
        ("regressor", torch.full((17, 12), torch.nan, dtype=torch.float64)),
    ],
)
def test_bad_arrays(tmp_path, key, value):
    save_hierarchy(load_hierarchy(published(tmp_path)[0]), tmp_path / "own.safetensors")
    save_file(load_file(tmp_path / "own.safetensors") | {key: value}, tmp_path / "bad.safetensors")
    with pytest.raises(UnsafeFileError, match="not a usable mesh hierarchy"):
        load_hierarchy(tmp_path / "bad.safetensors")


def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path):
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    path, parts = published(tmp_path)
    (seeds / "stored.npz").write_bytes(path.read_bytes())
    np.savez_compressed(seeds / "packed.npz", **parts)
    save_hierarchy(load_hierarchy(path), seeds / "own.safetensors")
    read = "lambda path: run(path, path.with_name('result'))"
    refused, _ = fuzz(seeds, "fasthmr.io.hierarchy_reader", read, 2.0)
    assert refused > 20


def test_no_file_and_no_hierarchy(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_hierarchy(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("hello, this is text")
    with pytest.raises(UnsafeFileError, match="neither"):
        load_hierarchy(tmp_path / "text.npz")
