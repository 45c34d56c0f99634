"""Phantoms: drawn images of made-up findings, with classes, visible attributes and captions.

No patient is in them. Three modalities look a little like skin, the inside of a gut and a stained
smear; every image shows one finding with a size, a color, a border, a surface and surroundings, and
its caption tells all of them. The base domain is what the `tiny` models were trained on; the
shifted domain, for fine-tuning, is skin of other colors through another camera, whose view is round
with dark corners, and has a class of its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from PIL import Image

from medart_cli.metrics.arrays import AnyArray

SIDE = 64  # pixels
PROFILE = "phantom"  # the caption profile, medart_cli/profiles/phantom.toml
SIMPLE = "A phantom image of {label}"
SIZES = {"small": 0.24, "medium": 0.38, "large": 0.56}  # radius, as a share of half the side
BORDERS = {"sharp": 0.02, "blurred": 0.13}  # width of the edge, likewise
SURFACES = ("plain", "speckled", "striped")
COLORS = {
    "brown": (122, 70, 38), "black": (44, 34, 36), "red": (182, 40, 40), "white": (246, 242, 236),
    "yellow": (232, 208, 84), "purple": (104, 48, 150), "blue": (44, 84, 176),
    "pink": (214, 74, 150),
}  # fmt: skip
SURROUNDINGS = {
    "pale skin": (236, 204, 186), "tan skin": (202, 156, 120), "yellow skin": (222, 190, 112),
    "pink skin": (232, 160, 168), "pink mucosa": (226, 138, 130), "orange mucosa": (222, 142, 84),
    "white field": (240, 238, 236), "yellow field": (236, 222, 172),
}  # fmt: skip


@dataclass(frozen=True)
class Modality:
    """What is drawn together: classes, and the colors and surroundings that they come in."""

    labels: tuple[str, ...]
    colors: tuple[str, ...]
    surroundings: tuple[str, ...]


BASE = {
    "skin": Modality(
        ("smooth mole", "star patch", "crusted plaque"),
        ("brown", "black", "red"),
        ("pale skin", "tan skin"),
    ),
    "gut": Modality(
        ("raised polyp", "double polyp", "flat ulcer"),
        ("white", "yellow", "red"),
        ("pink mucosa", "orange mucosa"),
    ),
    "smear": Modality(
        ("round nucleus", "lobed nucleus", "granule cell"),
        ("purple", "blue", "pink"),
        ("white field", "yellow field"),
    ),
}
SHIFTED = {
    "dermoscopy": Modality(
        ("smooth mole", "star patch", "crusted plaque", "ring lesion"),
        ("purple", "blue", "white"),
        ("yellow skin", "pink skin"),
    ),
}
DOMAINS = {"base": BASE, "shifted": SHIFTED}


@dataclass(frozen=True)
class Phantom:
    """What a phantom shows."""

    modality: str
    label: str
    size: str
    color: str
    border: str
    surface: str
    surroundings: str

    def caption(self) -> str:
        """Tell everything that is visible; the beginning is the profile's template caption."""
        return (
            f"{SIMPLE.format(label=self.label)}. It is {self.size} and {self.color}, with a "
            f"{self.border} border and a {self.surface} surface, on {self.surroundings}."
        )

    def attributes(self) -> dict[str, str]:
        """Return what an image of this class shows, by name."""
        return {k: v for k, v in asdict(self).items() if k not in ("modality", "label")}


def describe_phantom(
    generator: np.random.Generator, domain: str = "base", label: str | None = None
) -> Phantom:
    """Choose what a phantom shows, every attribute by chance.

    Args:
        generator: Source of chance.
        domain: `base` or `shifted`.
        label: Its class; by chance where none is given.
    """
    modalities = DOMAINS[domain]
    names = [name for name, item in modalities.items() if label is None or label in item.labels]
    modality = _choose(generator, names)
    kind = modalities[modality]
    return Phantom(
        modality=modality,
        label=label or _choose(generator, kind.labels),
        size=_choose(generator, tuple(SIZES)),
        color=_choose(generator, kind.colors),
        border=_choose(generator, tuple(BORDERS)),
        surface=_choose(generator, SURFACES),
        surroundings=_choose(generator, kind.surroundings),
    )


def read_attributes(caption: str) -> dict[str, str]:
    """Find the attributes that a caption tells, in the words of `Phantom.caption`.

    Returns:
        Those that it tells; a word that stands for none is left out.
    """
    words = caption.lower().replace(",", " ").replace(".", " ").split()
    after = {"size": "is", "color": "and"}  # the word before
    before = {"border": "border", "surface": "surface"}  # the word after
    found: dict[str, str] = {}
    known: dict[str, Collection[str]] = {
        "size": SIZES, "color": COLORS, "border": BORDERS, "surface": SURFACES,
    }  # fmt: skip
    for index, word in enumerate(words):
        for name, mark in after.items():
            if word in known[name] and index and words[index - 1] == mark:
                found.setdefault(name, word)
        for name, mark in before.items():
            if word in known[name] and words[index + 1 : index + 2] == [mark]:
                found.setdefault(name, word)
        if " ".join(words[index : index + 2]) in SURROUNDINGS and words[index - 1] == "on":
            found["surroundings"] = " ".join(words[index : index + 2])
    return found


def draw_phantom(phantom: Phantom, generator: np.random.Generator) -> Image.Image:
    """Draw a phantom, 64 x 64 pixels RGB; place, form and tint vary by chance."""
    radius = SIZES[phantom.size] * generator.uniform(0.92, 1.08)
    room = 0.28 * (1 - radius)
    center = generator.uniform(-room, room, 2)
    tint = generator.normal(0, 0.012, (2, 3)).astype(np.float32)
    ground = _color(SURROUNDINGS[phantom.surroundings]) + tint[0]
    paint = _color(COLORS[phantom.color]) + tint[1]

    canvas = _GROUNDS[phantom.modality](ground, generator)  # (H, W, 3)
    brush = _Brush(
        x=_X - center[0], y=_Y - center[1], radius=radius, edge=BORDERS[phantom.border],
        color=paint, surface=phantom.surface, generator=generator,
    )  # fmt: skip
    canvas = _FINDINGS[phantom.label](canvas, brush)
    if phantom.modality == "dermoscopy":
        canvas = canvas * _inside(np.hypot(_X, _Y) - _VIEW, 0.03)[..., None]
    canvas = canvas + generator.normal(0, 0.004, canvas.shape).astype(np.float32)
    pixels = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels)


# The canvas goes from -1 to 1 on both sides.
_AXIS = ((np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * 2 - 1).astype(np.float32)
_Y, _X = np.meshgrid(_AXIS, _AXIS, indexing="ij")
_VIEW = 1.08  # radius of a round view; the corners are dark
_CRUST = np.array([0.93, 0.62, 0.12], dtype=np.float32)
_RIM = np.array([0.45, 0.08, 0.08], dtype=np.float32)
_PALE = np.array([0.86, 0.84, 0.92], dtype=np.float32)
_GRAIN = np.array([0.86, 0.35, 0.12], dtype=np.float32)
_RED_CELL = np.array([0.87, 0.55, 0.52], dtype=np.float32)


@dataclass(frozen=True)
class _Brush:
    """How a finding is painted: coordinates around its center, size, edge, color, surface."""

    x: AnyArray
    y: AnyArray
    radius: float
    edge: float
    color: AnyArray
    surface: str
    generator: np.random.Generator


def _choose(generator: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(generator.integers(len(items)))]


def _color(color: tuple[int, int, int]) -> AnyArray:
    return np.array(color, dtype=np.float32) / 255


def _inside(distance: AnyArray, edge: float) -> AnyArray:
    """Turn a signed distance (negative inside) into a cover from 0 to 1, `edge` wide."""
    return (0.5 - distance / (2 * max(edge, 1.5 / SIDE))).clip(0, 1)


def _mix(canvas: AnyArray, color: AnyArray, cover: AnyArray) -> AnyArray:
    return canvas + cover[..., None] * (color - canvas)


def _clouds(generator: np.random.Generator, cells: int) -> AnyArray:
    """Draw smooth noise of about unit deviation: random values on a coarse grid, interpolated."""
    coarse = generator.normal(size=(cells, cells)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32)


def _surface(canvas: AnyArray, cover: AnyArray, brush: _Brush) -> AnyArray:
    """Give a covered part its surface: nothing, a lattice of spots, or stripes."""
    x, y, color = brush.x, brush.y, brush.color
    other = color * 0.55 if color.mean() > 0.6 else color + (1 - color) * 0.5
    if brush.surface == "speckled":
        spots = np.cos(x * 26) * np.cos(y * 26)
        return _mix(canvas, other, cover * ((spots - 0.25) * 4).clip(0, 1))
    if brush.surface == "striped":
        return _mix(canvas, other, cover * (np.cos((x + y) * 19) * 2).clip(0, 1))
    return canvas


def _skin(color: AnyArray, generator: np.random.Generator) -> AnyArray:
    shade = 1 + 0.025 * _clouds(generator, 5) + 0.04 * (_X * generator.uniform(-1, 1))
    return color * shade[..., None].astype(np.float32)


def _gut(color: AnyArray, generator: np.random.Generator) -> AnyArray:
    """Draw a round view with folds around a dark lumen."""
    lumen = generator.choice([-1, 1], 2) * generator.uniform(0.55, 0.7, 2)
    far = np.hypot(_X - lumen[0], _Y - lumen[1])
    shade = 0.30 + 0.75 * (far / 0.9).clip(0, 1) + 0.04 * np.cos(far * 16)
    view = _inside(np.hypot(_X, _Y) - _VIEW, 0.03)
    canvas: AnyArray = color * (shade * view)[..., None].astype(np.float32)
    return canvas


def _smear(color: AnyArray, generator: np.random.Generator) -> AnyArray:
    """Draw a bright field with pale red cells."""
    canvas = np.broadcast_to(color, (SIDE, SIDE, 3)).astype(np.float32)
    for turn in generator.permutation(7)[: generator.integers(3, 6)]:
        angle = turn * 2 * np.pi / 7 + generator.normal(0, 0.1)
        reach = generator.uniform(0.82, 0.98)
        far = np.hypot(_X - reach * np.cos(angle), _Y - reach * np.sin(angle))
        canvas = _mix(canvas, _RED_CELL, _inside(far - 0.2, 0.02) * (0.55 + 2 * far).clip(0, 0.95))
    return canvas


def _paint(canvas: AnyArray, distance: AnyArray, brush: _Brush) -> AnyArray:
    """Fill what has a negative distance with color and surface."""
    cover = _inside(distance, brush.edge)
    return _surface(_mix(canvas, brush.color, cover), cover, brush)


def _draw_mole(canvas: AnyArray, brush: _Brush) -> AnyArray:
    return _paint(canvas, _blob(brush, brush.radius, 0.04), brush)


def _draw_star(canvas: AnyArray, brush: _Brush) -> AnyArray:
    """Draw a star of six arms."""
    angle = np.arctan2(brush.y, brush.x) + brush.generator.uniform(0, 2 * np.pi)
    arms = np.abs(((angle * 6 / (2 * np.pi)) % 1) - 0.5) * 2  # 1 at a tip, 0 between two
    distance = np.hypot(brush.x, brush.y) - brush.radius * (0.55 + 0.75 * arms)
    return _paint(canvas, distance, brush)


def _draw_plaque(canvas: AnyArray, brush: _Brush) -> AnyArray:
    """Draw a square plate with round corners and an orange crust around it."""
    angle = brush.generator.uniform(0, np.pi / 2)
    x = brush.x * np.cos(angle) + brush.y * np.sin(angle)
    y = brush.y * np.cos(angle) - brush.x * np.sin(angle)
    distance = ((np.abs(x) / 0.95) ** 4 + (np.abs(y) / 0.95) ** 4) ** 0.25 - brush.radius
    canvas = _mix(canvas, _CRUST, _inside(distance, brush.edge) * 0.95)
    return _paint(canvas, distance + 0.32 * brush.radius, brush)


def _draw_ring(canvas: AnyArray, brush: _Brush) -> AnyArray:
    middle = _blob(brush, brush.radius * 0.8, 0.03)
    return _paint(canvas, np.abs(middle) - brush.radius * 0.3, brush)


def _draw_polyp(canvas: AnyArray, brush: _Brush) -> AnyArray:
    """Draw a half ball, lit from above left, with its shadow."""
    x, y, radius = brush.x, brush.y, brush.radius
    shadow = _inside(np.hypot(x - 0.12 * radius, y - 0.18 * radius) - radius * 1.12, 0.08)
    canvas = canvas * (1 - 0.35 * shadow)[..., None]
    cover = _inside(np.hypot(x, y) - radius, brush.edge)
    light = (1.05 - 0.45 * ((x + y) / radius * 0.5 + 0.5)).clip(0.55, 1.05)
    canvas = _mix(canvas, brush.color * light[..., None], cover)
    canvas = _surface(canvas, cover, brush)
    shine = _inside(np.hypot(x + 0.4 * radius, y + 0.4 * radius) - 0.16 * radius, 0.03)
    return _mix(canvas, np.ones(3, dtype=np.float32), shine * 0.9)


def _draw_double(canvas: AnyArray, brush: _Brush) -> AnyArray:
    angle = brush.generator.uniform(-0.5, 0.5)
    for side in (-1, 1):
        reach = side * 0.75 * brush.radius
        canvas = _draw_polyp(canvas, _moved(brush, reach, angle, 0.7 * brush.radius))
    return canvas


def _draw_ulcer(canvas: AnyArray, brush: _Brush) -> AnyArray:
    """Draw a flat, uneven patch with a dark red rim."""
    distance = _blob(brush, brush.radius, 0.22)
    canvas = _mix(canvas, _RIM, _inside(distance - 0.09, max(brush.edge, 0.04)) * 0.9)
    return _paint(canvas, distance, brush)


def _draw_round(canvas: AnyArray, brush: _Brush) -> AnyArray:
    return _paint(_draw_body(canvas, brush), _blob(brush, brush.radius * 0.9, 0.05), brush)


def _draw_lobed(canvas: AnyArray, brush: _Brush) -> AnyArray:
    """Draw a nucleus of three lobes that touch."""
    canvas = _draw_body(canvas, brush)
    start = brush.generator.uniform(0, 2 * np.pi)
    distance = np.full((SIDE, SIDE), 9.0, dtype=np.float32)
    for lobe in range(3):
        lobed = _moved(brush, 0.55 * brush.radius, start + lobe * 2 * np.pi / 3, 0.0)
        distance = np.minimum(distance, np.hypot(lobed.x, lobed.y) - 0.46 * brush.radius)
    return _paint(canvas, distance, brush)


def _draw_granules(canvas: AnyArray, brush: _Brush) -> AnyArray:
    """Draw a nucleus at one side and grains in the rest of the body."""
    canvas = _draw_body(canvas, brush)
    start = brush.generator.uniform(0, 2 * np.pi)
    for turn in range(1, 8):
        grain = _moved(brush, 0.95 * brush.radius, start + turn * 2 * np.pi / 8, 0.0)
        far = np.hypot(grain.x, grain.y)
        canvas = _mix(canvas, _GRAIN, _inside(far - 0.17 * brush.radius, 0.02))
    nucleus = _moved(brush, 0.45 * brush.radius, start, 0.0)
    distance = np.hypot(nucleus.x, nucleus.y) - 0.58 * brush.radius
    return _paint(canvas, distance, brush)


def _draw_body(canvas: AnyArray, brush: _Brush) -> AnyArray:
    """Draw a cell's pale body, which has a hint of its nucleus' color."""
    pale = 0.8 * _PALE + 0.2 * brush.color
    return _mix(canvas, pale, _inside(np.hypot(brush.x, brush.y) - brush.radius * 1.3, brush.edge))


def _blob(brush: _Brush, radius: float, rough: float) -> AnyArray:
    """Return the signed distance to a round form whose radius wavers by a share of `rough`."""
    angle, far = np.arctan2(brush.y, brush.x), np.hypot(brush.x, brush.y)
    phases = brush.generator.uniform(0, 2 * np.pi, 3)
    waves = sum(np.cos(k * angle + phase) / k for k, phase in zip((2, 3, 5), phases, strict=True))
    distance: AnyArray = far - radius * (1 + rough * waves)
    return distance


def _moved(brush: _Brush, reach: float, angle: float, radius: float) -> _Brush:
    x, y = brush.x - reach * np.cos(angle), brush.y - reach * np.sin(angle)
    return replace(brush, x=x, y=y, radius=radius)


_GROUNDS = {"skin": _skin, "dermoscopy": _skin, "gut": _gut, "smear": _smear}
_FINDINGS = {
    "smooth mole": _draw_mole, "star patch": _draw_star, "crusted plaque": _draw_plaque,
    "ring lesion": _draw_ring, "raised polyp": _draw_polyp, "double polyp": _draw_double,
    "flat ulcer": _draw_ulcer, "round nucleus": _draw_round, "lobed nucleus": _draw_lobed,
    "granule cell": _draw_granules,
}  # fmt: skip
