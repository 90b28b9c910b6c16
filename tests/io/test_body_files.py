from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from fasthmr.body.lbs import BodyModel
from fasthmr.errors import InputError, UnsafeFileError
from fasthmr.io import body_files, isolated, safe_npz
from fasthmr.io.body_files import import_body_file, load_body_file, load_regressor_file
from fasthmr.io.body_schema import BODY_KEYS, check_body
from fasthmr.io.restricted_pickle import read_pickle
from fasthmr.io.safe_npz import read_npy, read_npz
from tests.io.attacks import call, fuzz, pickles_that_exhaust, pickles_with_code, stack_global
from tests.io.legacy_pickle import Ch, Csc, Select, as_published, body_arrays, legacy_dumps

SOURCE_ROOT = Path(body_files.__file__).parents[2]
WRITERS: dict[str, dict[str, Any]] = {
    "python 2, protocol 0": {"protocol": 0, "python2": True},
    "python 2, protocol 2": {"protocol": 2, "python2": True},
    "python 3, protocol 2": {"protocol": 2},
    "python 3, protocol 4": {"protocol": 4},
    "python 3, protocol 5": {"protocol": 5},
    "python 3, protocol 5, numpy 2": {"protocol": 5, "numpy_core": "_core"},
    "python 3, protocol 3, numpy 2": {"protocol": 3, "numpy_core": "_core"},
}


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=SOURCE_ROOT)


def write(folder: Path, data: bytes, name: str = "body.pkl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# Reading what publishers wrote


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("joints", "hand"), [(24, False), (52, False), (16, True)], ids=["SMPL", "SMPL-H", "MANO"]
)
def test_published_pickles_are_read_exactly(tmp_path: Path, writer: str, joints: int, hand: bool) -> None:
    arrays = body_arrays(joints)
    path = write(tmp_path, legacy_dumps(as_published(arrays, hand=hand), **WRITERS[writer]))
    read = read_pickle(path, wanted=BODY_KEYS)
    for key, array in arrays.items():
        assert read[key].dtype == array.dtype and np.array_equal(read[key], array), key
    assert ("hands_mean" in read) == hand and "bs_style" not in read
    checked = check_body(read, path)
    assert checked.arrays["parents"].tolist() == [-1, *arrays["kintree_table"][0, 1:]]


def test_plain_arrays_and_other_number_types_are_read(tmp_path: Path) -> None:
    content = {
        "big_endian": np.arange(6, dtype=">f4").reshape(2, 3),
        "flags": np.array([True, False]),
        "scalar": np.float64(2.5),
        "empty": np.zeros((0, 3)),
    }
    read = read_pickle(write(tmp_path, pickle.dumps(content, protocol=4)))
    for key, array in content.items():
        assert np.array_equal(read[key], array), key


@pytest.mark.parametrize("suffix", [".pkl", ".npz", ".safetensors"])
def test_every_format_gives_the_same_body(tmp_path: Path, suffix: str) -> None:
    arrays = body_arrays(24)
    path = tmp_path / f"body{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, **arrays, joint2num=np.array({"a": 1}, dtype=object))
    elif suffix == ".safetensors":
        save_file(arrays, path)
    else:
        path.write_bytes(legacy_dumps(as_published(arrays), 2, python2=True))
    body = load_body_file(path, dtype=torch.float64)
    assert isinstance(body, BodyModel) and body.name == "custom"
    assert (body.num_vertices, body.num_joints, body.num_betas) == (40, 24, 10)
    posedirs = torch.from_numpy(arrays["posedirs"]).reshape(120, 207).T
    assert body.posedirs is not None and torch.equal(body.posedirs, posedirs)
    assert torch.equal(body.v_template, torch.from_numpy(arrays["v_template"]))
    assert torch.equal(body.faces, torch.from_numpy(arrays["f"].astype(np.int64)))
    mesh = body(body.rest_params(2))
    torch.testing.assert_close(mesh.joints[0], body.J_regressor @ body.v_template)


def test_hand_file_keeps_its_pose_components(tmp_path: Path) -> None:
    content = as_published(body_arrays(16), hand=True)
    body = load_body_file(write(tmp_path, legacy_dumps(content, 2, python2=True)), num_betas=4)
    assert body.num_betas == 4 and body.v_template.dtype == torch.float32
    torch.testing.assert_close(body.extras["hands_mean"], torch.from_numpy(content["hands_mean"]).float())
    assert body.extras["hands_components"].shape == (45, 45)


def test_face_landmarks_become_keypoints(tmp_path: Path) -> None:
    arrays = body_arrays(24)
    path = tmp_path / "face.npz"
    corners = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    np.savez(path, **arrays, lmk_faces_idx=np.array([4, 7], dtype=np.uint32), lmk_bary_coords=corners)
    body = load_body_file(path, dtype=torch.float64)
    expected = np.einsum("lcx,lc->lx", arrays["v_template"][arrays["f"][[4, 7]]], corners)
    assert body.keypoint_names == ("face_landmark_0", "face_landmark_1")
    torch.testing.assert_close(body.keypoints(body.v_template), torch.from_numpy(expected))


def test_imported_copy_is_the_same_body(tmp_path: Path) -> None:
    source = write(tmp_path, legacy_dumps(as_published(body_arrays(16), hand=True), 4))
    target = tmp_path / "copy.safetensors"
    assert import_body_file(source, target) == "custom"
    first, second = load_body_file(source), load_body_file(target)
    assert "hands_mean" in first.extras
    for (name, a), (_, b) in zip(first.named_buffers(), second.named_buffers(), strict=True):
        assert torch.equal(a, b), name


def test_regressor_files(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((19, 40))
    np.save(tmp_path / "regressor.npy", matrix)
    pickled = write(tmp_path, legacy_dumps(matrix, 2, python2=True), "regressor.pkl")
    for path in (tmp_path / "regressor.npy", pickled):
        assert torch.equal(load_regressor_file(path, torch.float64), torch.from_numpy(matrix))
    np.save(tmp_path / "flat.npy", matrix[0])
    with pytest.raises(UnsafeFileError, match=r"shape \(40,\); expected a finite"):
        load_regressor_file(tmp_path / "flat.npy")


def test_the_reader_loads_neither_chumpy_nor_scipy_nor_torch(tmp_path: Path) -> None:
    path = write(tmp_path, legacy_dumps(as_published(body_arrays(16), hand=True), 2, python2=True))
    code = """
        import sys
        from pathlib import Path
        from fasthmr.io import body_reader
        body_reader.run("body", Path(sys.argv[1]), Path(sys.argv[2]))
        print(sorted({"chumpy", "scipy", "torch"} & sys.modules.keys()))
    """
    result = run_python(code, path, tmp_path / "out.safetensors")
    assert result.stdout.strip() == "[]", result.stderr


# Files that attack


def gadgets(canary: Path) -> dict[str, bytes]:
    good = body_arrays(16)
    loop = Select(None, np.arange(3), (3,))
    loop.a = loop
    sparse = Csc(good["J_regressor"])
    sparse.indices = sparse.indices + 1000
    vast = Csc(good["J_regressor"])
    vast._shape = (2**30, 40)
    unsorted = Csc(good["J_regressor"])
    unsorted.indptr = unsorted.indptr[::-1].copy()
    cut = legacy_dumps(good, 4)

    def with_shapedirs(value: object) -> bytes:
        return legacy_dumps({**good, "shapedirs": value}, 2)

    return {
        **pickles_with_code(canary),
        **pickles_that_exhaust(),
        "dotted listed name": stack_global("chumpy.ch", "Ch.__init__.__globals__", "a"),
        "sibling of a listed name": call("chumpy.ch", "ChLambda", "a"),
        "instance of another type": b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nNNtR.",
        "array called directly": b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftR.",
        "state on a listed type": b"\x80\x02cchumpy.ch\nCh\n}U\x01xK\x01sb.",
        "object array": legacy_dumps({**good, "v_template": np.array([{}, 1], dtype=object)}, 2),
        "structured array": legacy_dumps({**good, "v_template": np.zeros(3, dtype=[("a", "f8")])}, 2),
        "recursive selection": with_shapedirs(loop),
        "deep selection": with_shapedirs(Ch(Ch(Ch(Ch(Ch(Ch(good["shapedirs"]))))))),
        "selection out of range": with_shapedirs(Select(Ch(np.zeros(4)), np.array([0, 4]), (2,))),
        "negative selection": with_shapedirs(Select(Ch(np.zeros(4)), np.array([-1]), (1,))),
        "unknown inside a used key": with_shapedirs({"x": 1}),
        "sparse rows out of range": legacy_dumps({**good, "J_regressor": sparse}, 2),
        "vast sparse shape": legacy_dumps({**good, "J_regressor": vast}, 2),
        "sparse columns unsorted": legacy_dumps({**good, "J_regressor": unsorted}, 2),
        "short data": cut.replace(good["v_template"].tobytes(), good["v_template"].tobytes()[:-8]),
        "truncated": cut[: len(cut) // 2],
    }


@pytest.mark.parametrize("gadget", gadgets(Path("canary")))
def test_attack_is_refused_and_nothing_runs(tmp_path: Path, gadget: str) -> None:
    canary = tmp_path / "canary"
    path = write(tmp_path, gadgets(canary)[gadget])
    before = time.perf_counter()
    with pytest.raises(UnsafeFileError) as caught:
        load_body_file(path)
    assert time.perf_counter() - before < 5
    assert not canary.exists()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_the_attacks_work_on_an_open_unpickler(tmp_path: Path) -> None:
    """Otherwise the canary would prove nothing."""
    canary = tmp_path / "canary"
    for gadget in ("posix.system", "eval", "instance of a class", "object opcode", "dotted name"):
        if gadget == "dotted name" and not hasattr(np, "f2py"):
            continue
        run_python(
            "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))", gadgets(canary)[gadget].hex()
        )
        assert canary.exists(), gadget
        canary.unlink()


def test_endless_computation_is_stopped(tmp_path: Path) -> None:
    # A tuple of two references to the tuple before it, 60 deep: hashing it takes 2**60 steps.
    path = write(tmp_path, b"\x80\x04)" + b"\x942\x86" * 60 + b"\x94}h\x3cK\x01s.")
    code = (
        "from fasthmr.io import body_reader as r; from fasthmr.io.isolated import Limits; "
        "r.LIMITS = Limits(memory_bytes=2**31, cpu_seconds=1, wall_seconds=9); r.main()"
    )
    assert run_python(code, "body", path, tmp_path / "out").returncode < 0


def test_reader_that_dies_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, b"anything")
    monkeypatch.setattr(isolated, "_BOOT", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(UnsafeFileError, match="more memory or time"):
        load_body_file(path)
    monkeypatch.setattr(isolated, "_BOOT", "import time; time.sleep(30)")
    limits = isolated.Limits(memory_bytes=2**31, cpu_seconds=60, wall_seconds=0.2)
    monkeypatch.setattr(body_files, "LIMITS", limits)
    with pytest.raises(UnsafeFileError, match="not read within"):
        load_body_file(path)


# Files that are wrong


def broken(key: str, index: Any, value: float) -> dict[str, np.ndarray]:
    arrays = body_arrays(24)
    arrays[key] = arrays[key].copy()
    arrays[key][index] = value
    return arrays


WRONG_BODIES: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "NaN": (broken("posedirs", (3, 1, 5), np.nan), "'posedirs' has values that are not finite"),
    "infinite": (broken("weights", (3, 1), np.inf), "'weights' has values that are not finite"),
    "weights": (broken("weights", (3, 1), 0.9), "'weights' has rows that do not sum to 1"),
    "faces": (broken("f", (0, 0), 40), r"'f' has indices outside 0\.\.39"),
    "cycle": (broken("kintree_table", (0, 4), 9), "'kintree_table' is not a tree"),
    "second root": (broken("kintree_table", (0, 4), -1), "'kintree_table' is not a tree"),
    "joint order": (broken("kintree_table", (1, 4), 7), "'kintree_table' is not a tree"),
    "missing": ({k: v for k, v in body_arrays(24).items() if k != "weights"}, "'weights' is missing"),
    "posedirs": ({**body_arrays(24), "posedirs": np.zeros((40, 3, 9))}, r"'posedirs' has shape \(40, 3, 9\)"),
    "shapedirs": ({**body_arrays(24), "shapedirs": np.zeros((40, 3))}, r"'shapedirs' has shape \(40, 3\)"),
    "template": ({**body_arrays(24), "v_template": np.zeros(40)}, r"'v_template' has shape \(40,\)"),
    "type": ({**body_arrays(24), "f": np.zeros((60, 3))}, "'f' has type float64"),
    "landmarks": (
        {**body_arrays(24), "lmk_faces_idx": np.array([1]), "lmk_bary_coords": np.zeros((2, 3))},
        "'lmk_bary_coords' has shape",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_BODIES)
def test_wrong_arrays_are_named(wrong: str) -> None:
    arrays, message = WRONG_BODIES[wrong]
    with pytest.raises(UnsafeFileError, match=rf"^body\.npz: {message}"):
        check_body(arrays, Path("body.npz"))


def test_errors_of_the_reading_process_reach_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "nan.npz"
    np.savez(path, **WRONG_BODIES["NaN"][0])
    with pytest.raises(UnsafeFileError, match=r"nan\.npz: 'posedirs' has values that are not finite"):
        load_body_file(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_body_file(tmp_path / "absent.npz")
    with pytest.raises(UnsafeFileError, match="expected a file"):
        load_body_file(tmp_path)


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError) as caught:
        read_pickle(write(tmp_path, b"cos\x1b[2J\rx\nsys\x07tem\n."))
    assert str(caught.value).isprintable() and "os\\x1b" in str(caught.value)


def test_compact_file_of_the_bake_is_a_body_file(tmp_path: Path) -> None:
    joints = 16
    tensors = {
        "v_template": torch.rand(8, 3, generator=torch.Generator().manual_seed(0)),
        "shapedirs": torch.zeros(8, 3, 2).half(),
        "faces": torch.tensor([[0, 1, 2]]).to(torch.uint16),
        "lbs_index": torch.zeros(8, 4, dtype=torch.uint8),
        "lbs_weight": torch.full((8, 4), 0.25).half(),
        "parents": torch.tensor([-1] + [0] * (joints - 1)),
        "J_template": torch.zeros(joints, 3),
        "J_shapedirs": torch.zeros(joints, 3, 2),
    }
    path = tmp_path / "body.safetensors"
    save_torch_file(tensors, path, metadata={"name": "tiny"})
    body = load_body_file(path, num_betas=None)
    assert (body.name, body.num_betas, body.num_joints) == ("tiny", 2, joints)
    tensors["v_template"][3, 1] = torch.nan
    save_torch_file(tensors, path)
    with pytest.raises(UnsafeFileError, match="'v_template' has values that are not finite"):
        load_body_file(path)
    del tensors["v_template"]
    save_torch_file(tensors, path)
    with pytest.raises(UnsafeFileError, match="not a compact body file"):
        load_body_file(path)


# NumPy archives


def npy_header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def test_archives_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "names": np.array(["nose", "left"]),
        "scalar": np.array(3),
    }
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    read = read_npz(tmp_path / "x.npz")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[key], arrays[key]) for key in arrays)
    assert list(read_npz(tmp_path / "x.npz", wanted=["a", "absent"])) == ["a"]
    np.save(tmp_path / "a.npy", arrays["a"])
    assert np.array_equal(read_npy(tmp_path / "a.npy"), arrays["a"])


BAD_MEMBERS = {
    "lying header": npy_header((2**33,)),
    "overflowing shape": npy_header((2**40, 2**40)),
    "negative shape": npy_header((-1, -16)) + b"\0" * 128,
    "objects": npy_header((1,), "|O") + pickle.dumps([1]),
    "fields": npy_header((1,), "O,f8") + b"\0" * 16,
    "cut": npy_header((4,)) + b"\0" * 31,
    "rest": npy_header((4,)) + b"\0" * 33,
    "no array": b"hello",
    "version 3": b"\x93NUMPY\x03\x00" + b"\0" * 128,
}


@pytest.mark.parametrize("member", BAD_MEMBERS)
def test_bad_members_are_refused_without_memory(tmp_path: Path, member: str) -> None:
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("v_template.npy", BAD_MEMBERS[member])
    before = time.perf_counter()
    with pytest.raises(UnsafeFileError, match=r"bad\.npz: not a usable NumPy file \(.+\); download or"):
        read_npz(path)
    with pytest.raises(UnsafeFileError):
        load_body_file(path)
    assert time.perf_counter() - before < 5
    path.write_bytes(BAD_MEMBERS[member])
    with pytest.raises(UnsafeFileError):
        read_npy(path)


def test_archives_that_would_grow_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, a=np.zeros(2**17), b=np.zeros(2**17))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(safe_npz, "_FREE_BYTES", 2**20)
    with pytest.raises(UnsafeFileError, match="would unpack to 2 MiB"):
        read_npz(path)


def test_damaged_bytes_raise_only_the_declared_error(tmp_path: Path) -> None:
    """Byte mutations of good files, under the limits of the reading process."""
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    arrays = body_arrays(3, vertices=5, betas=1)
    for name, options in WRITERS.items():
        write(seeds, legacy_dumps(as_published(arrays, hand=True), **options), f"{name}.pkl")
    np.savez(seeds / "stored.npz", **arrays)
    np.savez_compressed(seeds / "deflated.npz", **arrays)
    save_file(arrays, seeds / "body.safetensors")
    read = 'lambda path: run("body", path, path.with_name("out"))'
    refused, accepted = fuzz(seeds, "fasthmr.io.body_reader", read, 4)
    assert refused > 100 and accepted > 0
