"""What a synthetic person wears: choice of pieces, their joining into one figure, and their colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fasthmr.data.figures import Figure
from fasthmr.data.posing import SyntheticBody
from fasthmr.data.wardrobe import Piece, Wardrobe

_WHOLE_SUITS = ("male_casualsuit01", "male_worksuit01")
_OFFSETS_MM = {"tshirt_basic": 10.0, "gown": 6.0, "sports_bra": 4.0}
_LONG_TROUSERS = -0.6  # metres below the pelvis
_RARE = {"male_casualsuit01": 0.25, "sports_bra": 0.3, "heel_sandals": 0.15, "glasses": 1.0}
_HAIR_TINTS = np.array(
    [
        [0.012, 0.011, 0.011], [0.02, 0.014, 0.01], [0.05, 0.028, 0.016], [0.11, 0.06, 0.03],
        [0.42, 0.28, 0.13], [0.3, 0.18, 0.08], [0.24, 0.07, 0.025], [0.35, 0.35, 0.36], [0.65, 0.65, 0.66],
    ]
)  # fmt: skip
_HAIR_SHARES = np.array([5, 4, 4, 3, 2, 2, 1, 1.2, 0.6])


@dataclass(frozen=True, kw_only=True)
class Worn:
    """One worn item: garment, part of it, distance from the body (m), and run of the figure."""

    name: str
    part: str = "all"
    offset: float = 0.0
    run: str = "open"


@dataclass(frozen=True, kw_only=True, eq=False)
class Outfit:
    """Everything a person wears, with skin first, in the order of the figure's layers."""

    skin: str
    worn: tuple[Worn, ...]


def sample_outfit(wardrobe: Wardrobe, rng: np.random.Generator) -> Outfit:
    """Draw an outfit that always covers trunk and hips."""
    worn: list[Worn] = []
    suits = wardrobe.named("suit")
    mixable = [name for name in suits if name not in _WHOLE_SUITS]
    whole = [name for name in suits if name in _WHOLE_SUITS]
    dresses = wardrobe.named("dress")
    draw = rng.random()
    loose = rng.uniform(0, 5) if rng.random() < 0.5 else 0.0
    if whole and draw < 0.1:
        worn.append(Worn(name=_pick(whole, rng)))
    elif dresses and draw < 0.14:
        worn.append(Worn(name=_pick(dresses, rng), offset=_offset("gown")))
    else:
        lowers = [*mixable, *wardrobe.named("bottom")]
        lower = _pick(lowers, rng)
        worn.append(Worn(name=lower, part="lower" if lower in mixable else "all", offset=loose / 1000))
        if lower in mixable and rng.random() < 0.3:
            worn.append(Worn(name=lower, part="upper", offset=loose / 1000))
        else:
            upper = _pick([*mixable, *wardrobe.named("top")], rng)
            offset = max(_offset(upper), 0.004) + (loose + rng.uniform(0, 6) * (loose > 0)) / 1000
            worn.append(Worn(name=upper, part="upper" if upper in mixable else "all", offset=offset))
    feet, legs = rng.random(2)
    covering = min(float(wardrobe.piece(item.name, item.part).template[:, 1].min()) for item in worn)
    # Socks poke through trousers that cover them.
    if legs < 0.45 and covering > _LONG_TROUSERS and wardrobe.named("socks", "stockings"):
        worn.append(Worn(name=_pick(wardrobe.named("socks", "stockings"), rng)))
    if feet < 0.9:
        worn.append(Worn(name=_pick(wardrobe.named("shoes"), rng), offset=0.001))
    worn += _head(wardrobe, rng)
    worn = [_with_run(wardrobe, item) for item in worn]
    return Outfit(skin=_pick(wardrobe.named("skin"), rng), worn=tuple(worn))


def _head(wardrobe: Wardrobe, rng: np.random.Generator) -> list[Worn]:
    hair, hats, glasses = wardrobe.named("hair"), wardrobe.named("hat"), wardrobe.named("glasses")
    hat, hairy, glassy = rng.random(3)
    worn = []
    if hats and hat < 0.1:
        worn.append(Worn(name=_pick(hats, rng), offset=0.002))
        short = [name for name in hair if name == "short04"]
        if short and hairy < 0.5:
            worn.append(Worn(name=short[0]))
    elif hair and hairy < 0.93:
        worn.append(Worn(name=_pick(hair, rng)))
    if glasses and glassy < 0.12:
        worn.append(Worn(name=_pick(glasses, rng)))
    if wardrobe.named("eyes"):
        worn.append(Worn(name=_pick(wardrobe.named("eyes"), rng), run="fine"))
    if wardrobe.named("eyebrow"):
        worn.append(Worn(name=_pick(wardrobe.named("eyebrow"), rng), run="fine"))
    return worn


def _pick(names: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    weight = np.array([_RARE.get(name, 1.0) for name in names])
    return names[int(rng.choice(len(names), p=weight / weight.sum()))]


def _offset(name: str) -> float:
    return _OFFSETS_MM.get(name, 0.0) / 1000


def _with_run(wardrobe: Wardrobe, item: Worn) -> Worn:
    see_through = wardrobe.opacity[wardrobe.slices.get(item.name, 0)]
    if item.run == "fine" or not see_through:
        return item
    return Worn(name=item.name, part=item.part, offset=item.offset, run="see_through")


def dress(body: SyntheticBody, wardrobe: Wardrobe, outfit: Outfit, betas: np.ndarray, key: str) -> Figure:
    """Join the visible skin and all worn pieces, in the rest pose of one body shape, into a figure."""
    pieces = [wardrobe.piece(item.name, item.part) for item in outfit.worn]
    skin, eyeballs = body.visible_skin([piece.hides for piece in pieces])
    runs: dict[str, list[np.ndarray]] = {
        run: [] for run in ("closed", "open", "eyeballs", "fine", "see_through")
    }
    parts = [_shaped(body.piece, betas, 0.0, 0)]
    runs["closed"].append(skin)
    runs["eyeballs"].append(eyeballs)
    start = len(parts[0])
    order = np.argsort([wardrobe.items[item.name]["kind"] == "hair" for item in outfit.worn], kind="stable")
    for place in order:
        item, piece = outfit.worn[place], pieces[place]
        parts.append(_shaped(piece, betas, item.offset, int(place) + 1))
        runs[item.run].append(piece.indices + start)
        start += len(parts[-1])
    vertices = np.concatenate(parts)
    indices = np.concatenate([index for run in runs.values() for index in run])
    used = np.zeros(len(vertices), dtype=bool)
    used[indices] = True
    remap = np.cumsum(used, dtype=np.uint32) - 1
    ends = np.cumsum([sum(len(index) for index in run) for run in runs.values()]).tolist()
    return Figure(
        key=key, vertices=vertices[used], indices=remap[indices].astype(np.uint32), spans=tuple(ends)
    )


def _shaped(piece: Piece, betas: np.ndarray, offset: float, layer: int) -> np.ndarray:
    rest = piece.template + piece.shapedirs @ betas.astype(np.float32)
    if offset:
        rest = rest + offset * piece.normals
    corners = piece.corners.copy()
    corners["position"] = rest[piece.corner_vertex]
    corners["layer"] = layer
    return corners


def sample_layers(
    wardrobe: Wardrobe, outfit: Outfit, fabrics: np.ndarray, rng: np.random.Generator
) -> Float[np.ndarray, "layers 16"]:
    """Draw colours and cloth for every layer of an outfit; `fabrics` are usable pattern slices."""
    skin = layer(wardrobe.slices[outfit.skin], gloss=rng.uniform(0, 0.25))
    skin[:3] = rng.uniform(0.85, 1.25) * rng.uniform(0.94, 1.06, size=3)
    rows = [skin]
    hair = _HAIR_TINTS[int(rng.choice(len(_HAIR_TINTS), p=_HAIR_SHARES / _HAIR_SHARES.sum()))]
    hair = rng.uniform(0.2, 0.9, size=3) ** 2 if rng.random() < 0.03 else hair * rng.uniform(0.7, 1.3)
    cloth: dict[str, np.ndarray] = {}
    for item in outfit.worn:
        kind = wardrobe.items[item.name]["kind"]
        if kind == "eyes":
            colours = wardrobe.named("eye colour")
            rows.append(_material(wardrobe, colours[int(rng.integers(len(colours)))], opacity=True))
        elif kind in ("hair", "eyebrow"):
            row = _material(wardrobe, item.name, opacity=True)
            row[:3], row[6], row[7], row[13] = hair, 0.0, 1.0, rng.uniform(0, 0.15)
            rows.append(row)
        elif item.name in cloth and rng.random() < 0.5:
            rows.append(cloth[item.name])
        else:
            row = _cloth(wardrobe, item.name, kind, fabrics, rng)
            cloth[item.name] = row
            rows.append(row)
    return np.stack(rows).astype(np.float32)


def layer(picture: int, *, gloss: float = 0.0, luminance: float = 0.5) -> Float[np.ndarray, "16"]:
    """A layer that shows one texture slice as it is."""
    row = np.zeros(16)
    row[:3], row[3], row[6], row[8], row[11] = 1.0, picture, 1.0, 1.0, 1.0
    row[13], row[14] = gloss, luminance
    return row


def _material(wardrobe: Wardrobe, name: str, *, opacity: bool) -> Float[np.ndarray, "16"]:
    picture = wardrobe.slices[name]
    row = layer(picture, luminance=max(float(wardrobe.luminance[picture]), 0.02))
    row[12] = float(opacity)
    return row


def random_colour(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """A linear cloth colour: greys, denim and every hue, more often muted than bright."""
    kind = rng.random()
    if kind < 0.42:
        return np.full(3, rng.uniform(0.1, 0.92) ** 2.2) * rng.uniform(0.93, 1.07, size=3)
    if kind < 0.54:
        return np.array([0.05, 0.1, 0.22]) * rng.uniform(0.3, 2.2) * rng.uniform(0.85, 1.15, size=3)
    hue = (rng.random() + np.array([0, 1 / 3, 2 / 3])) % 1.0
    pure = np.clip(np.abs(hue * 6 - 3) - 1, 0, 1)
    saturation, value = rng.beta(1.8, 2.4), rng.uniform(0.12, 0.85)
    return (value * (1 - saturation * (1 - pure))) ** 2.2


def _cloth(
    wardrobe: Wardrobe, name: str, kind: str, fabrics: np.ndarray, rng: np.random.Generator
) -> Float[np.ndarray, "16"]:
    row = _material(wardrobe, name, opacity=bool(wardrobe.opacity[wardrobe.slices[name]]))
    style = rng.random()
    row[13] = rng.uniform(0.1, 0.5) if kind == "shoes" else rng.uniform(0, 0.2) * (rng.random() < 0.3)
    has_picture = "diffuse" in wardrobe.items[name]["textures"]
    if has_picture and style < 0.2:
        row[:3] = rng.uniform(0.8, 1.25) * rng.uniform(0.92, 1.08, size=3)
    elif has_picture and style < 0.4:
        colour = random_colour(rng)
        row[:3] = (colour / max(colour.max(), 0.05)) ** 0.7 * rng.uniform(0.6, 1.3)
    elif style < 0.72 or not len(fabrics) or kind in ("shoes", "glasses"):
        row[:3], row[6], row[7] = random_colour(rng), 0.0, rng.uniform(0.2, 0.9) * has_picture
    else:
        row[:3], row[6], row[7] = rng.uniform(0.7, 1.3) * random_colour(rng) ** 0.3, 0.0, 0.4 * has_picture
        if rng.random() < 0.4:
            row[:3] = rng.uniform(0.8, 1.3)
        angle, scale = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]), np.exp(rng.uniform(0.5, 2.6))
        row[4], row[5] = rng.choice(fabrics), rng.uniform(0.6, 1.0)
        row[8:12] = scale * np.array([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)])
    return row
