"""Places for synthetic people: panoramas, photos, surface textures, cloth patterns, and their light.

An environment directory holds `index.json` (items with id, kind, file, place, time, licence, split) and
`lighting.npz`. A folder without `index.json` counts as a heap of the user's own photos; light, textures
and patterns then come from the package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from fasthmr.data.figures import Light, octahedral_directions
from fasthmr.data.motion import Split
from fasthmr.errors import InputError

_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_LIGHT_MAP_SIZE = 24
_LONGEST_SIDE = {"panorama": 1024, "photo": 768, "texture": 256, "swatch": 128}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture: where it lies and what it shows (place indoor/outdoor, time of day)."""

    id: str
    path: Path
    place: str = ""
    time: str = ""
    light: str = ""
    tiles: str = "repeat"
    category: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class EnvironmentLibrary:
    """Pictures and lights of one split; pictures are decoded when first asked for."""

    panoramas: tuple[Item, ...]
    photos: tuple[Item, ...]
    textures: tuple[Item, ...]
    swatches: tuple[Item, ...]
    lights: dict[str, Light]
    light_places: dict[str, tuple[str, str]]
    _decoded: dict[Path, UInt8[np.ndarray, "height width 3"]] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls, directory: Path, split: Split, *, package: Path, share_alike: bool = False
    ) -> EnvironmentLibrary:
        """Read the index of a directory, or list the pictures of a plain folder.

        Args:
            package: The package's own environment directory, for what a plain folder lacks.
            share_alike: Use photos under a share-alike licence in train and val too.

        Raises:
            InputError: The folder holds no picture, or its index cannot be read.
        """
        if not (directory / "index.json").is_file():
            if directory == package:
                raise InputError(f"{package}/index.json is missing from the package; reinstall fasthmr")
            own = cls.load(package, split, package=package)
            paths = sorted(path for path in directory.rglob("*") if path.suffix.lower() in _PICTURES)
            if not paths:
                raise InputError(f"{directory}: neither an index.json nor a picture")
            photos = tuple(Item(id=path.stem, path=path) for path in paths)
            return cls(
                panoramas=(),
                photos=photos,
                textures=own.textures,
                swatches=own.swatches,
                lights=own.lights,
                light_places=own.light_places,
            )
        try:
            items = json.loads((directory / "index.json").read_text(encoding="utf-8"))["items"]
        except (ValueError, KeyError) as error:
            raise InputError(f"{directory}/index.json: {error}") from error
        wanted = "test" if split == "test" else "train"
        chosen = [
            item
            for item in items
            if item["split"] == wanted and (share_alike or wanted == "test" or "BY-SA" not in item["licence"])
        ]

        def of_kind(kind: str) -> tuple[Item, ...]:
            return tuple(
                Item(
                    id=item["id"],
                    path=directory / item["file"],
                    place=item.get("place", ""),
                    time=item.get("time", ""),
                    light=item.get("light", ""),
                    tiles=item.get("tiles", "repeat"),
                    category=item.get("category") or "",
                )
                for item in chosen
                if item["kind"] == kind
            )

        lit = [item for item in chosen if item["kind"] in ("panorama", "light")]
        return cls(
            panoramas=of_kind("panorama"),
            photos=of_kind("photo"),
            textures=of_kind("texture"),
            swatches=of_kind("swatch"),
            lights=_read_lights(directory / "lighting.npz", {item["light"] for item in lit}),
            light_places={item["light"]: (item["place"], item["time"]) for item in lit},
        )

    def picture(self, item: Item, kind: str) -> UInt8[np.ndarray, "height width 3"]:
        """The RGB picture of an item, at most as large as its kind needs.

        Raises:
            InputError: The file is not a picture.
        """
        if item.path not in self._decoded:
            import cv2

            bgr = cv2.imread(str(item.path), cv2.IMREAD_COLOR)
            if bgr is None:
                raise InputError(f"{item.path}: not a picture that can be read")
            scale = _LONGEST_SIDE[kind] / max(bgr.shape[:2])
            if scale < 1:
                bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            self._decoded[item.path] = np.ascontiguousarray(bgr[..., ::-1])
        return self._decoded[item.path]

    def light_for(self, item: Item, rng: np.random.Generator) -> Light:
        """The light of a panorama; for other pictures one of the same place and time, or any."""
        names = sorted(self.lights)
        if item.light in self.lights:
            return self.lights[item.light]
        alike = [name for name in names if self.light_places[name] == (item.place, item.time)]
        return self.lights[str(rng.choice(alike or names))]


def _read_lights(path: Path, wanted: set[str]) -> dict[str, Light]:
    directions = octahedral_directions(_LIGHT_MAP_SIZE)
    cell = _cell_directions()
    edges = np.sin(np.linspace(np.pi / 2, -np.pi / 2, 33))
    solid_angle = np.repeat(((edges[:-1] - edges[1:]) * 2 * np.pi / 64)[:, None], 64, axis=1)
    cosine = np.maximum(directions.reshape(-1, 3) @ cell.reshape(-1, 3).T, 0.0)
    lights = {}
    with np.load(path, allow_pickle=False) as data:
        for index, name in enumerate(data["ids"].tolist()):
            if name not in wanted:
                continue
            flux = data["env"][index].astype(np.float64) * solid_angle[..., None]
            share = flux.sum(axis=-1)
            row, column = np.unravel_index(share.argmax(), share.shape)
            near = np.zeros_like(share, dtype=bool)
            for step_row in (-1, 0, 1):
                for step_column in (-1, 0, 1):
                    near[np.clip(row + step_row, 0, 31), (column + step_column) % 64] = True
            sun = near & (share > share[row, column] / 10)
            direction = (cell[sun] * share[sun][:, None]).sum(axis=0)
            rest = np.where(sun[..., None], 0.0, flux).reshape(-1, 3)
            lights[name] = Light(
                irradiance=(cosine @ rest).reshape(_LIGHT_MAP_SIZE, _LIGHT_MAP_SIZE, 3).astype(np.float32),
                sun_direction=direction / np.linalg.norm(direction),
                sun_color=flux[sun].sum(axis=0),
            )
    return lights


def _cell_directions() -> Float[np.ndarray, "32 64 3"]:
    azimuth = ((np.arange(64) + 0.5) / 64 - 0.5) * 2 * np.pi
    elevation = (0.5 - (np.arange(32) + 0.5) / 32) * np.pi
    azimuth, elevation = np.meshgrid(azimuth, elevation)
    flat = np.cos(elevation)
    return np.stack([flat * np.sin(azimuth), -np.sin(elevation), flat * np.cos(azimuth)], axis=-1)
