"""The colour operations one image at a time, as PIL and torchvision define them: the tests' oracle.

float64 images [H, W, 3] in [0, 1]; every operation clips, as uint8 images force PIL to. Sources:
torchvision `transforms/_functional_tensor.py` (adjust_brightness, _contrast, _saturation, _hue) and
`transforms.ColorJitter`; grey weights of PIL's "L" mode.
"""

import itertools

import numpy as np

GREY = np.array([0.299, 0.587, 0.114])
ORDERS = list(itertools.permutations(("brightness", "contrast", "saturation", "hue")))


def blend(image, other, factor, clip=True):
    mixed = factor * image + (1 - factor) * other
    return np.clip(mixed, 0, 1) if clip else mixed


def brightness(image, factor, clip=True):
    return blend(image, np.zeros_like(image), factor, clip)


def contrast(image, factor, clip=True):
    return blend(image, (image @ GREY).mean(), factor, clip)


def saturation(image, factor, clip=True):
    return blend(image, (image @ GREY)[..., None], factor, clip)


def hue(image, turns, clip=True):
    """Adds `turns` to the hue of HSV; `clip` is there for a common signature."""
    h, s, v = rgb_to_hsv(image)
    return hsv_to_rgb((h + turns) % 1.0, s, v)


def channel_grey(image, channel):
    return np.repeat(image[..., channel, None], 3, axis=-1)


def rgb_to_hsv(image):
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    v, low = image.max(-1), image.min(-1)
    span = v - low
    s = np.divide(span, v, out=np.zeros_like(v), where=v > 0)
    safe = np.where(span > 0, span, 1)
    h = np.where(v == r, (g - b) / safe, np.where(v == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    return np.where(span > 0, h / 6 % 1.0, 0), s, v


def hsv_to_rgb(h, s, v):
    sector = np.floor(h * 6)
    f = h * 6 - sector
    p, q, t = v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))
    sectors = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)]
    number = sector.astype(int) % 6
    planes = [np.choose(number, [rgb[c] for rgb in sectors]) for c in range(3)]
    return np.stack(planes, -1)


def turned_hue(image, turns):
    """Hue as the product does it: the colour turned about the grey axis by Rodrigues' formula."""
    axis, angle = np.full(3, 3**-0.5), 2 * np.pi * turns
    along = (image @ axis)[..., None] * axis
    return np.cos(angle) * (image - along) + np.sin(angle) * np.cross(axis, image) + along


def color_jitter(image, factors, order, *, clip=True, hue_operation=hue):
    """ColorJitter of torchvision with given factors ({operation: number}) and order."""
    operations = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name in order:
        if name == "hue":
            image = hue_operation(image, factors["hue"])
            image = np.clip(image, 0, 1) if clip else image
        else:
            image = operations[name](image, factors[name], clip)
    return image
