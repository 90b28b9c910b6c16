"""A small independent reader of binary glTF: checks the rules for buffers, plays animations, skins meshes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@dataclass(frozen=True)
class Gltf:
    document: dict[str, Any]
    binary: bytes

    @classmethod
    def read(cls, path: Path) -> Gltf:
        data = path.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        chunks, place = [], 12
        while place < len(data):
            size, kind = struct.unpack_from("<I4s", data, place)
            assert size % 4 == 0
            chunks.append((kind, data[place + 8 : place + 8 + size]))
            place += 8 + size
        assert place == len(data)
        assert [kind for kind, _ in chunks] in ([b"JSON"], [b"JSON", b"BIN\0"])
        return cls(json.loads(chunks[0][1]), chunks[1][1] if len(chunks) > 1 else b"")

    def values(self, index: int) -> np.ndarray:
        accessor = self.document["accessors"][index]
        view = self.document["bufferViews"][accessor["bufferView"]]
        dtype, width = np.dtype(_DTYPES[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        return np.frombuffer(self.binary, dtype, accessor["count"] * width, view["byteOffset"]).reshape(
            accessor["count"], width
        )

    def check(self) -> None:
        """Rules of sections 3.6 and 3.11 that a loader relies on."""
        document = self.document
        assert not [name for name, value in document.items() if value == []]
        end = 0
        for view in document.get("bufferViews", []):
            assert view["byteOffset"] % 4 == 0 and view["byteOffset"] >= end and view["byteLength"] > 0
            end = view["byteOffset"] + view["byteLength"]
        assert end <= len(self.binary) < end + 4
        if self.binary:
            assert document["buffers"] == [{"byteLength": len(self.binary)}]
        for index, accessor in enumerate(document.get("accessors", [])):
            values = self.values(index)
            assert values.nbytes == document["bufferViews"][accessor["bufferView"]]["byteLength"]
            assert np.isfinite(values).all()
            if "min" in accessor:
                np.testing.assert_array_equal(np.float32(accessor["min"]), values.min(0))
                np.testing.assert_array_equal(np.float32(accessor["max"]), values.max(0))
        nodes = document.get("nodes", [])
        children = [child for node in nodes for child in node.get("children", [])]
        roots = document["scenes"][document["scene"]].get("nodes", [])
        assert sorted(children + roots) == list(range(len(nodes)))  # each node hangs on one place
        for mesh in document.get("meshes", []):
            for primitive in mesh["primitives"]:
                self._check_primitive(primitive)
        for skin in document.get("skins", []):
            assert len(set(skin["joints"])) == len(skin["joints"])
            matrices = self.values(skin["inverseBindMatrices"]).reshape(-1, 4, 4)
            assert len(matrices) == len(skin["joints"])
            np.testing.assert_array_equal(matrices[:, :, 3], np.tile([0, 0, 0, 1], (len(matrices), 1)))
        for animation in document.get("animations", []):
            self._check_animation(animation)

    def _check_primitive(self, primitive: dict[str, Any]) -> None:
        attributes = primitive["attributes"]
        position = self.document["accessors"][attributes["POSITION"]]
        assert len(position["min"]) == len(position["max"]) == 3
        for index in attributes.values():
            accessor = self.document["accessors"][index]
            assert accessor["count"] == position["count"]
            assert self.document["bufferViews"][accessor["bufferView"]]["target"] == 34962
        indices = self.document["accessors"][primitive["indices"]]
        assert self.document["bufferViews"][indices["bufferView"]]["target"] == 34963
        assert self.values(primitive["indices"]).max() < position["count"]
        np.testing.assert_allclose(np.linalg.norm(self.values(attributes["NORMAL"]), axis=1), 1, atol=1e-5)
        if "WEIGHTS_0" in attributes:
            np.testing.assert_allclose(self.values(attributes["WEIGHTS_0"]).sum(1), 1, atol=1e-6)

    def _check_animation(self, animation: dict[str, Any]) -> None:
        targets = [tuple(channel["target"].values()) for channel in animation["channels"]]
        assert len(set(targets)) == len(targets)
        for channel in animation["channels"]:
            sampler = animation["samplers"][channel["sampler"]]
            assert len(self.document["accessors"][sampler["input"]]["min"]) == 1
            times, values = self.values(sampler["input"])[:, 0], self.values(sampler["output"])
            assert times[0] >= 0 and (np.diff(times) > 0).all() and len(values) == len(times)
            if channel["target"]["path"] == "rotation":
                np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)
                assert ((values[1:] * values[:-1]).sum(1) >= 0).all()

    def node(self, name: str) -> dict[str, Any]:
        (found,) = [node for node in self.document["nodes"] if node.get("name") == name]
        return found

    def play(self, name: str, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Skinned vertices, and places of the joints, of a node with a skin, at a moment of the animation."""
        transforms = self._transforms(time)
        node = self.node(name)
        skin = self.document["skins"][node["skin"]]
        inverse_bind = self.values(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
        joints = np.stack([transforms[joint] for joint in skin["joints"]])
        (primitive,) = self.document["meshes"][node["mesh"]]["primitives"]
        points = self.values(primitive["attributes"]["POSITION"]).astype(float)
        index = self.values(primitive["attributes"]["JOINTS_0"])
        weight = self.values(primitive["attributes"]["WEIGHTS_0"]).astype(float)
        blended = np.einsum("vk,vkij->vij", weight, (joints @ inverse_bind)[index])
        return np.einsum("vij,vj->vi", blended[:, :3, :3], points) + blended[:, :3, 3], joints[:, :3, 3]

    def _transforms(self, time: float) -> list[np.ndarray]:
        nodes = [dict(node) for node in self.document["nodes"]]
        for animation in self.document.get("animations", []):
            for channel in animation["channels"]:
                sampler, target = animation["samplers"][channel["sampler"]], channel["target"]
                nodes[target["node"]][target["path"]] = self._sample(sampler, target["path"], time)
        parents = {child: index for index, node in enumerate(nodes) for child in node.get("children", [])}

        def world(index: int) -> np.ndarray:
            own = _matrix(nodes[index])
            return world(parents[index]) @ own if index in parents else own

        return [world(index) for index in range(len(nodes))]

    def _sample(self, sampler: dict[str, Any], path: str, time: float) -> np.ndarray:
        times, values = self.values(sampler["input"])[:, 0], self.values(sampler["output"]).astype(float)
        before = int(np.clip(np.searchsorted(times, np.float32(time), side="right") - 1, 0, len(times) - 1))
        after = min(before + 1, len(times) - 1)
        if sampler["interpolation"] == "STEP" or before == after:
            return values[before]
        share = float(np.clip((time - times[before]) / (times[after] - times[before]), 0, 1))
        if path != "rotation":
            return (1 - share) * values[before] + share * values[after]
        angle = np.arccos(np.clip(values[before] @ values[after], -1, 1))
        if angle < 1e-6:
            return values[before]
        arc = np.sin((1 - share) * angle) * values[before] + np.sin(share * angle) * values[after]
        return arc / np.sin(angle)


def _matrix(node: dict[str, Any]) -> np.ndarray:
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= node.get("scale", (1, 1, 1))
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
