"""Every format gives the tensors that PyTorch gives, without PyTorch unpickling anything."""

from __future__ import annotations

import argparse
import collections
import pathlib
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fasthmr.checkpoints.files import open_weights, read_weights
from fasthmr.checkpoints.import_writer import write_safetensors
from fasthmr.errors import UnsafeFileError
from fasthmr.io import weight_index
from tests.checkpoints.torch_archive import state_dict

SOURCE_ROOT = Path(weight_index.__file__).parents[2]


def equal(read: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert read.keys() == expected.keys()
    for key, tensor in expected.items():
        assert read[key].dtype == tensor.dtype and torch.equal(read[key], tensor.detach()), key
        assert read[key].is_contiguous()


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict", "bare"])
def test_pytorch_files(tmp_path: Path, new_format: bool, wrapped: bool) -> None:
    weights = state_dict()
    content = {"epoch": 3, "state_dict": weights, "optimizer_states": [{"m": torch.ones(7)}]}
    path = tmp_path / "w.ckpt"
    torch.save(content if wrapped else weights, path, _use_new_zipfile_serialization=new_format)
    file = open_weights(path)
    assert file.others == (("epoch", "optimizer_states") if wrapped else ())
    assert file.shapes["columns"] == (6, 3)
    equal(read_weights(path)[0], weights)


def test_safetensors(tmp_path: Path) -> None:
    weights = {key: tensor.detach().clone().contiguous() for key, tensor in state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors", metadata={"a": "b"})
    read, metadata = read_weights(tmp_path / "w.safetensors")
    equal(read, weights)
    assert metadata == {"a": "b"}


def test_what_we_stream_is_safetensors(tmp_path: Path) -> None:
    weights = {key: tensor.detach() for key, tensor in state_dict().items()}
    ordered = dict(sorted(weights.items(), key=lambda item: -item[1].dtype.itemsize))
    size = write_safetensors(tmp_path / "w.safetensors", ordered, iter(ordered.items()), {"a": "b"})
    assert size == (tmp_path / "w.safetensors").stat().st_size
    equal(load_file(tmp_path / "w.safetensors"), weights)
    equal(read_weights(tmp_path / "w.safetensors")[0], ordered)


def test_other_tensors_than_announced_are_not_written(tmp_path: Path) -> None:
    outline = {"a": torch.zeros(3)}
    with pytest.raises(ValueError, match="b came where a was expected"):
        write_safetensors(tmp_path / "w.safetensors", outline, iter([("b", torch.zeros(3))]), {})
    assert list(tmp_path.iterdir()) == []


class ModuleOf:
    """Makes a module with this class for as long as a file is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, module: str, cls: type) -> type:
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            if name not in sys.modules:
                self.monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        self.monkeypatch.setattr(sys.modules[module], cls.__name__, cls, raising=False)
        cls.__module__, cls.__qualname__ = module, cls.__name__
        return cls


def settings(make: ModuleOf) -> dict[str, object]:
    """What Lightning and others keep beside the weights, as yacs and omegaconf pickle it."""
    node = make("yacs.config", type("CfgNode", (dict,), {}))
    inner = node(TYPE="vit", SIZES=[256, 192])
    outer = node(MODEL=inner)
    outer.__dict__["__immutable__"] = True
    config = make("omegaconf.dictconfig", type("DictConfig", (), {}))()
    config.__dict__.update(_content={"lr": 1e-5}, _parent=None)
    metadata = make("omegaconf.base", type("ContainerMetadata", (), {}))()
    metadata.__dict__.update(ref_type=dict, object_type=None, flags={}, element_type=int)
    config._metadata = metadata
    attributes = make("pytorch_lightning.utilities.parsing", type("AttributeDict", (dict,), {}))
    return {
        "cfg": outer,
        "omega": config,
        "attributes": attributes(a=1),
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b")),
        "numpy": {"scalar": np.float64(2.5), "array": np.arange(3)},
        "others": [
            collections.OrderedDict(a=1),
            collections.defaultdict(list, b=[2]),
            {1, 2},
            slice(3),
            b"x",
        ],
        "torch": [torch.Size([1]), torch.float16, torch.device("cpu")],
    }


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before 1.6"])
def test_settings_of_training_frameworks_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_format: bool
) -> None:
    path = tmp_path / "w.ckpt"
    with monkeypatch.context() as patch:
        content = {"state_dict": state_dict(), "hyper_parameters": settings(ModuleOf(patch))}
        torch.save(content, path, _use_new_zipfile_serialization=new_format)
    equal(read_weights(path)[0], state_dict())
    foreign = {"yacs", "omegaconf", "pytorch_lightning"}
    assert not foreign & {name.partition(".")[0] for name in sys.modules}
    code = (
        "import sys; from pathlib import Path; from fasthmr.io.weight_index import index_weights;"
        "index_weights(Path(sys.argv[1])); print(sorted({'torch', 'numpy', 'yacs', 'omegaconf', 'argparse',"
        "'pytorch_lightning'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=SOURCE_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_file_that_shrinks_between_index_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    torch.save({"a": torch.ones(10_000)}, path)
    file = open_weights(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UnsafeFileError, match="ends within its weights"), file.reading() as read:
        read("a")
