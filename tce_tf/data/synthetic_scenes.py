"""What do the procedural clips show? One moving figure over a drifting background.

The *class* of a clip is the shape of its figure (`FIGURES`), which a single frame shows. Everything
else is nuisance and tells nothing about the class:

- a *scene* (`draw_scene`) holds colours, light and background; the clips of a group share it. The figure
  is lighter than the background in every colour channel, so that the channel-grey augmentation
  leaves it to be seen;
- a *motion* (`draw_motion`) holds one clip's smooth paths: position, size and turn of the figure,
  camera pan, zoom and roll over the background, drift of colour and light.

All randomness comes from the generators passed in. Lengths are in units of half the frame's height,
times in seconds.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

Figure = Callable[[np.ndarray, np.ndarray], np.ndarray]


_PERIOD = 2 / 3  # three motifs across a figure


def _fold(value: np.ndarray, period: float = _PERIOD) -> np.ndarray:
    """What is left to the nearest multiple of the period, in [-period / 2, period / 2]."""
    return (value + period / 2) % period - period / 2


def _stripes(value: np.ndarray) -> np.ndarray:
    return np.abs(_fold(value)) - _PERIOD / 4


def _box(
    x: np.ndarray, y: np.ndarray, left: float, top: float, right: float, bottom: float
) -> np.ndarray:
    """A rectangle, its sides in units of half a motif."""
    half = _PERIOD / 2
    inside_x = np.maximum(left * half - x, x - right * half)
    return np.maximum(inside_x, np.maximum(top * half - y, y - bottom * half))


def _arrows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = _fold(x), _fold(y)
    head = np.maximum(v, (1.5 * np.abs(u) - v - 0.45 * _PERIOD) / np.float32(np.sqrt(3.25)))
    return np.minimum(head, _box(u, v, -0.28, -0.1, 0.28, 0.85))


def _chevrons(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _stripes(y - np.abs(x)) * np.float32(np.sqrt(0.5))


def _domes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = _fold(x), _fold(y) - 0.3 * _PERIOD
    return np.maximum(np.hypot(u, v) - 0.45 * _PERIOD, v)


def _fans(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    v = y - 0.9
    radius = np.hypot(x, v)
    rays = radius * np.sin(14 * np.arctan2(v, x) + np.pi / 2) / 14
    return np.maximum(np.maximum(rays, radius - 1.8), v)


def _gates(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = _fold(x), _fold(y)
    legs = _box(np.abs(u), v, 0.45, -0.8, 0.85, 0.85)
    return np.minimum(legs, _box(u, v, -0.85, -0.8, 0.85, -0.4))


def _rainbows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    v = y - 0.9
    radius = np.hypot(x, v)
    return np.maximum(np.maximum(_stripes(radius), radius - 1.8), v)


def _tees(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = _fold(x), _fold(y)
    return np.minimum(_box(u, v, -0.85, -0.8, 0.85, -0.35), _box(u, v, -0.25, -0.4, 0.25, 0.85))


def _triangles(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = np.abs(_fold(x)), _fold(y)
    return np.maximum(v - 0.4 * _PERIOD, (2 * u - v - 0.4 * _PERIOD) / np.float32(np.sqrt(5)))


# Signed distance to the figure's outline, negative inside, in its own coordinates: it is cut to the
# square [-1, 1] and y points down. [H, W] float32 in and out. Each has an up and a down, as things
# in real footage do: the rotation task could not be learned from figures that look alike turned.
FIGURES: dict[str, Figure] = {
    "Arrows": _arrows,
    "Chevrons": _chevrons,
    "Domes": _domes,
    "Fans": _fans,
    "Gates": _gates,
    "Rainbows": _rainbows,
    "Tees": _tees,
    "Triangles": _triangles,
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """What the clips of one group share; colours are float [3] in [0, 1]."""

    background: np.ndarray
    figure: np.ndarray
    light: np.ndarray
    waves: np.ndarray  # [W, 3]: two spatial frequencies (radians per unit) and a phase
    wave_colours: np.ndarray  # [W, 3]
    shading: np.ndarray  # [3]: change of the figure's colour from its top to its bottom


@dataclasses.dataclass(frozen=True)
class Motion:
    """Smooth paths of one clip, each float [T] or [T, 3]."""

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    pan_x: np.ndarray
    pan_y: np.ndarray
    zoom: np.ndarray
    roll: np.ndarray
    light: np.ndarray
    tint: np.ndarray


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws colours, light and background of one group."""
    contrast = rng.uniform(0.35, 0.7)
    dark = rng.uniform(0.1, 0.95 - contrast)
    background = dark + rng.normal(0, 0.02, 3)
    figure = dark + contrast + rng.normal(0, 0.02, 3)
    tint = rng.uniform(0.15, 1.0, 3)
    count = 5
    angles, cycles = rng.uniform(0, np.pi, count), rng.uniform(0.15, 0.9, count)
    waves = np.stack(
        [
            2 * np.pi * cycles * np.cos(angles),
            2 * np.pi * cycles * np.sin(angles),
            rng.uniform(0, 2 * np.pi, count),
        ],
        axis=1,
    )
    return Scene(
        background=background,
        figure=figure,
        light=rng.uniform(0.4, 1.1) * tint / tint.max(),
        waves=waves,
        wave_colours=rng.normal(0, 0.04, (count, 1)) + rng.normal(0, 0.01, (count, 3)),
        shading=np.full(3, rng.uniform(-0.1, 0.1)),
    )


def _wander(
    rng: np.random.Generator, seconds: np.ndarray, low: float, high: float, hertz: float
) -> np.ndarray:
    """A smooth path [T] within [low, high]: two slow sine waves of random rate and phase."""
    rates = hertz * rng.uniform(0.6, 1.4, 2)
    phases = rng.uniform(0, 2 * np.pi, 2)
    waves = np.sin(2 * np.pi * np.outer(seconds, rates) + phases)
    return (low + high) / 2 + (high - low) / 2 * (0.7 * waves[:, 0] + 0.3 * waves[:, 1])


def draw_motion(rng: np.random.Generator, *, num_frames: int, fps: float) -> Motion:
    """Draws one clip's paths."""
    seconds = np.arange(num_frames) / fps

    def path(low: float, high: float, hertz: float) -> np.ndarray:
        return _wander(rng, seconds, low, high, hertz)

    return Motion(
        x=path(-0.3, 0.3, 0.6),
        y=path(-0.15, 0.15, 0.6),
        size=path(0.8, 1.0, 0.6),
        turn=path(-0.2, 0.2, 0.5),
        pan_x=rng.uniform(-8, 8) + path(-1.5, 1.5, 0.3),
        pan_y=rng.uniform(-8, 8) + path(-1.5, 1.5, 0.3),
        zoom=path(0.8, 1.25, 0.4),
        roll=path(-0.15, 0.15, 0.4),
        light=path(0.75, 1.15, 0.5),
        tint=np.stack([path(-0.03, 0.03, 0.5) for _ in range(3)], axis=1),
    )


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def render(
    figure: str, scene: Scene, motion: Motion, *, height_px: int, width_px: int
) -> Iterator[np.ndarray]:
    """Yields the clip's frames: uint8 [H, W, 3] RGB, with anti-aliased edges."""
    distance = FIGURES[figure]
    half = height_px / 2
    ys, xs = np.meshgrid(
        ((np.arange(height_px) + 0.5) / half - 1).astype(np.float32),
        ((np.arange(width_px) + 0.5 - width_px / 2) / half).astype(np.float32),
        indexing="ij",
    )
    waves = scene.waves.astype(np.float32)
    wave_colours = scene.wave_colours.astype(np.float32)
    # Python floats keep float32 arrays in float32; NumPy scalars would not.
    paths = {name: path.tolist() for name, path in dataclasses.asdict(motion).items()}
    for t in range(len(motion.x)):
        now = {name: path[t] for name, path in paths.items()}
        x, y = _turned(xs, ys, now["roll"])
        x, y = x * now["zoom"] + now["pan_x"], y * now["zoom"] + now["pan_y"]
        ripple = np.sin(x[..., None] * waves[:, 0] + y[..., None] * waves[:, 1] + waves[:, 2])
        background = scene.background.astype(np.float32) + ripple @ wave_colours

        size = now["size"]
        x, y = _turned((xs - now["x"]) / size, (ys - now["y"]) / size, now["turn"])
        outline = np.maximum(distance(x, y), np.maximum(np.abs(x), np.abs(y)) - 1)
        cover = np.clip(0.5 - outline * (size * half), 0, 1)[..., None]
        colour = (scene.figure + motion.tint[t]).astype(np.float32)
        colour = colour + y[..., None] * scene.shading.astype(np.float32)

        image = (background + cover * (colour - background)) * (scene.light * now["light"]).astype(
            np.float32
        )
        yield np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
