"""Text drawn for the OCR models: lines to be read, pages with lines to be found. Free fonts, no downloads.

DejaVu comes with matplotlib; Chinese is drawn too where a font for it is installed (Debian's
``fonts-wqy-zenhei``), else all text is English words and numbers.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]  #: left, top, right, bottom

LINE_HEIGHT, LINE_WIDTH, PAGE = 48, 320, 736
_CHINESE_FONT = Path("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc")
_LATIN_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono")


@dataclass(frozen=True)
class Line:
    """A picture of one line, [LINE_HEIGHT, width, 3] RGB, and what it says."""

    pixels: Pixels
    says: str


@dataclass(frozen=True)
class Page:
    """A picture [PAGE, PAGE, 3] RGB, and where its lines are, as tall as their tallest letters could be."""

    pixels: Pixels
    boxes: list[Box]


def languages() -> str:
    """Say what is drawn here."""
    return "English, numbers and Chinese" if _CHINESE_FONT.exists() else "English and numbers"


def lines(count: int, seed: int) -> list[Line]:
    """``count`` lines no wider than LINE_WIDTH."""
    chance = random.Random(seed)  # noqa: S311
    found: list[Line] = []
    while len(found) < count:
        line = _line(chance)
        if line.pixels.shape[1] <= LINE_WIDTH:
            found.append(line)
    return found


def _line(chance: random.Random) -> Line:
    says, font = _text(chance, chance.randint(26, 48))
    left, top, right, bottom = font.getbbox(says)
    side, above = chance.randint(2, 10), chance.randint(1, 6)
    ink, paper = _colours(chance)
    image = Image.new("RGB", (round(right - left) + 2 * side, round(bottom - top) + 2 * above), paper)
    ImageDraw.Draw(image).text((side - left, above - top), says, ink, font)
    width = max(1, round(image.width * LINE_HEIGHT / image.height))
    return Line(_worn(image, chance).resize_to(width, LINE_HEIGHT), says)


def pages(count: int, seed: int) -> list[Page]:
    """``count`` pages of lines of several sizes, none over another."""
    chance = random.Random(seed)  # noqa: S311
    return [_page(chance) for _ in range(count)]


def _page(chance: random.Random) -> Page:
    ink, paper = _colours(chance)
    image = Image.new("RGB", (PAGE, PAGE), paper)
    draw, boxes = ImageDraw.Draw(image), []
    down = chance.randint(10, 60)
    while True:
        size, right = chance.randint(16, 44), float(chance.randint(10, 120))
        if down + 1.5 * size > PAGE:
            break
        while True:
            says, font = _text(chance, size)
            box = draw.textbbox((right, down), says, font=font)
            if box[2] > PAGE - 10:
                break
            draw.text((right, down), says, ink, font)
            tall = draw.textbbox((right, down), "Hg", font=font)
            boxes.append((box[0], min(box[1], tall[1]), box[2], max(box[3], tall[3])))
            right = box[2] + chance.randint(3 * size, 300)
        down += round(chance.uniform(1.5, 3) * size)
    return Page(_worn(image, chance).resize_to(PAGE, PAGE), boxes)


def _text(chance: random.Random, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Make up a few words, a number or Chinese, and a font that has its characters."""
    kind = chance.choice(["words", "words", "number", *(["chinese"] * 3 if _CHINESE_FONT.exists() else [])])
    if kind == "chinese":
        says = "".join(chance.choice(_chinese()) for _ in range(chance.randint(2, 6)))
        return says, _font(str(_CHINESE_FONT), size)
    latin = _font(str(_latin_fonts() / f"{chance.choice(_LATIN_FONTS)}.ttf"), size)
    if kind == "words":
        return " ".join(chance.choice(_words()) for _ in range(chance.randint(1, 2))), latin
    digits = f"{chance.randint(0, 9_999_999)}"
    forms = [digits, f"{digits[:4]}-{digits[-2:]}", f"{digits[:3]}.{digits[-2:]}", f"{digits[:2]}:{digits[-2:]}"]
    return chance.choice(forms), latin


@functools.cache
def _words() -> list[str]:
    """Words of three to ten letters, of the licence."""
    text = (Path(__file__).parents[2] / "LICENSE").read_text()
    return sorted({word for word in text.split() if word.isalpha() and 3 <= len(word) <= 10})


@functools.cache
def _chinese() -> list[str]:
    """The 3755 characters of the first level of GB 2312, the common ones."""
    rows = [bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF)]
    return [code.decode("gb2312") for code in rows[:3755]]


@functools.cache
def _latin_fonts() -> Path:
    import matplotlib as mpl  # noqa: PLC0415

    return Path(mpl.get_data_path(), "fonts/ttf")


@functools.cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _colours(chance: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Dark ink on light paper, or the other way round one time in four."""
    dark, light = (
        (chance.randint(low, low + 80), chance.randint(low, low + 80), chance.randint(low, low + 80))
        for low in (0, 170)
    )
    return (light, dark) if chance.random() < 0.25 else (dark, light)


@dataclass(frozen=True)
class _Worn:
    """A picture with its wear: how much blur and noise it gets once it has its size."""

    image: Image.Image
    blur: float
    noise: float
    seed: int

    def resize_to(self, width: int, height: int) -> Pixels:
        resized = self.image.resize((width, height), Image.Resampling.BILINEAR)
        blurred = np.asarray(resized.filter(ImageFilter.GaussianBlur(self.blur)), np.float32)
        noise = self.noise * np.random.default_rng(self.seed).standard_normal(blurred.shape)
        return np.clip(blurred + noise, 0, 255).astype(np.uint8)


def _worn(image: Image.Image, chance: random.Random) -> _Worn:
    return _Worn(image, chance.uniform(0, 1), chance.uniform(0, 12), chance.getrandbits(32))
