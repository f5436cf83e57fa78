"""Answers drawn on their pictures: captions, boxes, masks and label maps, in Pillow.

Lines and letters grow with the picture, and a picture too small for letters is enlarged first.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from bbx.outputs import Classified, Detected, Result, Segmented

_LEAST_SIDE = 320
"""Pixels of a picture's shorter side that letters need."""

_GOLDEN = (5**0.5 - 1) / 2
"""Steps of this part of a circle give hues of which the first few are far apart, however many there are."""

_VEIL = 0.45
"""Opacity of masks."""

_MOST_KEYS = 8
"""Classes that a legend names."""

Colour = tuple[int, int, int]


def drawn(image: Image.Image, result: Result, names: Sequence[str], *, top: int = 5) -> Image.Image:
    """A picture with what was found on it.

    Args:
        image: RGB, as it was decoded.
        result: in the picture's pixels.
        names: of the classes, in the network's numbering.
        top: labels in the caption of a classified picture.
    """
    scale = max(1, -(-_LEAST_SIDE // min(image.size)))
    canvas = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    if isinstance(result, Detected):
        return _with_detections(canvas, result, names, scale)
    if isinstance(result, Segmented):
        return _with_labels(canvas, result, names, scale)
    return _with_caption(canvas, result, names, top)


def colour_of(label: int) -> Colour:
    """The colour of a class: always the same, and far from its neighbours'."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, 0.8 if label % 2 else 0.6, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def label_map(result: Segmented) -> Image.Image:
    """The class of each pixel as a palette image, in the colours that masks are drawn in; 0 is black."""
    image = Image.fromarray(result.labels.astype(np.uint8), mode="P")
    colours = [(0, 0, 0), *(colour_of(label) for label in range(1, 256))]
    image.putpalette([value for colour in colours for value in colour])
    return image


def _with_caption(canvas: Image.Image, result: Classified, names: Sequence[str], top: int) -> Image.Image:
    lines = [f"{names[label]}  {result.probabilities[label]:.1%}" for label in result.order[:top]]
    _legend(canvas, [(None, line) for line in lines])
    return canvas


def _with_detections(canvas: Image.Image, found: Detected, names: Sequence[str], scale: int) -> Image.Image:
    order = range(len(found.labels) - 1, -1, -1)  # the best are drawn last, and so stand in front
    if found.masks is not None:
        for row in order:
            canvas = _veiled(canvas, _enlarged(found.masks[row], scale), colour_of(int(found.labels[row])))
    pen = ImageDraw.Draw(canvas)
    width = _line(canvas)
    for row in order:
        colour = colour_of(int(found.labels[row]))
        box = [float(value) * scale for value in found.boxes[row]]
        pen.rectangle(box, outline=colour, width=width)
        if found.keypoints is not None:
            for x, y, visible in found.keypoints[row]:
                if visible > 0:
                    pen.circle((x * scale, y * scale), 1.5 * width, fill=colour, outline="white")
    for row in order:
        label = int(found.labels[row])
        text = f"{names[label]} {found.scores[row]:.0%}"
        _tag(canvas, pen, text, (found.boxes[row][0] * scale, found.boxes[row][1] * scale), colour_of(label))
    return canvas


def _with_labels(canvas: Image.Image, result: Segmented, names: Sequence[str], scale: int) -> Image.Image:
    labels, pixels = np.unique(result.labels, return_counts=True)
    shares = {int(label): count / result.labels.size for label, count in zip(labels, pixels, strict=True)}
    order = sorted((label for label in shares if label != 0), key=lambda label: -shares[label])
    for label in order:
        canvas = _veiled(canvas, _enlarged(result.labels == label, scale), colour_of(label))
    _legend(
        canvas, [(colour_of(label), f"{names[label]}  {shares[label]:.1%}") for label in order[:_MOST_KEYS]]
    )
    return canvas


def _veiled(canvas: Image.Image, mask: NDArray[np.bool_], colour: Colour) -> Image.Image:
    """A part of the picture under a veil of a colour, with an outline."""
    stencil = Image.fromarray(mask.astype(np.uint8) * 255)
    paint = Image.new("RGB", canvas.size, colour)
    canvas.paste(paint, mask=stencil.point(lambda value: round(value * _VEIL)))
    inner = stencil.filter(ImageFilter.MinFilter(2 * _line(canvas) // 2 * 2 + 1))
    edge = Image.fromarray(np.asarray(stencil) & ~np.asarray(inner))
    canvas.paste(paint, mask=edge)
    return canvas


def _legend(canvas: Image.Image, lines: Sequence[tuple[Colour | None, str]]) -> None:
    """Lines of text in the upper left corner, each with a patch of its colour if it has one."""
    if not lines:
        return
    pen, font = ImageDraw.Draw(canvas, "RGBA"), _fitting(canvas, [text for _, text in lines])
    pad = font.size / 3
    patch = font.size if any(colour for colour, _ in lines) else 0.0
    height = font.size * 1.35
    width = max(font.getlength(text) for _, text in lines) + 2 * pad + patch
    pen.rectangle((0, 0, width + pad, height * len(lines) + pad), fill=(0, 0, 0, 170))
    for row, (colour, text) in enumerate(lines):
        y = pad / 2 + row * height
        if colour is not None:
            pen.rectangle(
                (pad, y + pad / 2, pad + 0.7 * font.size, y + pad / 2 + 0.7 * font.size), fill=colour
            )
        pen.text((pad + patch, y), text, font=font, fill="white")


def _tag(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], colour: Colour
) -> None:
    """A label above a box, or in it where there is no room above; never beyond the picture."""
    font = _fitting(canvas, [text])
    width, height = font.getlength(text) + font.size / 2, font.size * 1.3
    x = min(max(corner[0], 0), max(canvas.width - width, 0))
    y = corner[1] - height if corner[1] >= height else corner[1]
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + font.size / 4, y + font.size * 0.05), text, font=font, fill=_legible_on(colour))


def _fitting(canvas: Image.Image, texts: Sequence[str]) -> ImageFont.FreeTypeFont:
    """A font in proportion to the picture, smaller where the longest text would not fit."""
    size = max(12.0, min(canvas.size) / 26)
    font = _font(size)
    longest = max(font.getlength(text) for text in texts) + 2 * size
    return font if longest <= canvas.width else _font(max(9.0, size * canvas.width / longest))


def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels bring FreeType
    return font


def _line(canvas: Image.Image) -> int:
    return max(2, round(min(canvas.size) / 220))


def _legible_on(colour: Colour) -> Colour:
    """Black or white, whichever stands out more (relative luminance of ITU-R BT.709)."""
    red, green, blue = colour
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 120 else (255, 255, 255)


def _enlarged(mask: NDArray[np.bool_], scale: int) -> NDArray[np.bool_]:
    return np.repeat(np.repeat(mask, scale, axis=0), scale, axis=1)
