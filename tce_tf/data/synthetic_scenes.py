"""What do the procedural clips show? One moving figure over a drifting background.

The *class* of a clip is the shape of its figure (`FIGURES`), which a single frame shows. Everything
else is nuisance and tells nothing about the class:

- a *scene* (`draw_scene`) holds colours, light and background; the clips of a group share it. In every
  colour channel the figure may be lighter or darker than the background, so a network that sees one
  random channel at a time has to learn the shape instead of "dark on light";
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


def _bars(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _stripes(y)


def _checker(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = x + _PERIOD / 2, y + _PERIOD / 2
    to_edge = np.minimum(np.abs(_fold(u)), np.abs(_fold(v)))
    return np.where(_fold(u, 2 * _PERIOD) * _fold(v, 2 * _PERIOD) > 0, -to_edge, to_edge)


def _chevrons(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _stripes(y - np.abs(x)) * np.float32(np.sqrt(0.5))


def _crosses(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = np.abs(_fold(x)), np.abs(_fold(y))
    long, short = 0.42 * _PERIOD, 0.13 * _PERIOD
    return np.minimum(np.maximum(u - long, v - short), np.maximum(u - short, v - long))


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(_fold(x), _fold(y)) - 0.36 * _PERIOD


def _rays(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius = np.hypot(x, y)
    return np.maximum(radius * np.sin(8 * np.arctan2(y, x)) / 8, radius - 1)


def _rings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius = np.hypot(x, y)
    return np.maximum(_stripes(radius), radius - 1)


def _triangles(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = np.abs(_fold(x)), _fold(y)
    return np.maximum(v - 0.4 * _PERIOD, (2 * u - v - 0.4 * _PERIOD) / np.float32(np.sqrt(5)))


# Signed distance to the figure's outline, negative inside, in its own coordinates: it is cut to the
# square [-1, 1] and y points down. [H, W] float32 in and out.
FIGURES: dict[str, Figure] = {
    "Bars": _bars,
    "Checker": _checker,
    "Chevrons": _chevrons,
    "Crosses": _crosses,
    "Dots": _dots,
    "Rays": _rays,
    "Rings": _rings,
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
    darker, lighter_figure = rng.uniform(0.1, 0.95 - contrast), rng.choice([0, 1])
    background = darker + (1 - lighter_figure) * contrast + rng.normal(0, 0.02, 3)
    figure = darker + lighter_figure * contrast + rng.normal(0, 0.02, 3)
    tint = rng.uniform(0.25, 1.0, 3)
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
        light=rng.uniform(0.7, 1.1) * tint / tint.max(),
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
        x=path(-0.4, 0.4, 0.6),
        y=path(-0.3, 0.3, 0.6),
        size=path(0.75, 1.0, 0.6),
        turn=path(-0.4, 0.4, 0.5),
        pan_x=rng.uniform(-8, 8) + path(-1.5, 1.5, 0.3),
        pan_y=rng.uniform(-8, 8) + path(-1.5, 1.5, 0.3),
        zoom=path(0.8, 1.25, 0.4),
        roll=path(-0.3, 0.3, 0.4),
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
