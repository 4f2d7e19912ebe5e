"""A recogniser of words, and pictures of words."""

from __future__ import annotations

import random
import sys
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.real_packages import folder_of, module_at, standing_in
from benchmarks.real_texts import words

HEIGHT, WIDTH = 64, 256
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
READ = 500
NOISE, BLUR, TURN = 0.09, 1.4, 3.0


def rendered(word: str, rng: random.Random) -> Tensor:
    """A picture of a word as the recogniser takes it: 1 x 64 x 256 of -1 to 1."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{rng.choice(FONTS)}.ttf"
    size = rng.uniform(30, 46)
    ground, ink = rng.uniform(150, 255), rng.uniform(0, 100)
    if rng.random() < 0.3:
        ground, ink = ink, ground
    font = ImageFont.truetype(str(path), size)
    left, top, right, bottom = font.getbbox(word)
    if right - left > WIDTH - 16:
        font = ImageFont.truetype(str(path), size * (WIDTH - 16) / (right - left))
        left, top, right, bottom = font.getbbox(word)
    picture = Image.new("L", (WIDTH, HEIGHT), round(ground))
    across = rng.uniform(4, min(14.0, WIDTH - (right - left) - 4))
    down = (HEIGHT - (bottom - top)) / 2 + rng.uniform(-4, 4)
    ImageDraw.Draw(picture).text((across - left, down - top), word, fill=round(ink), font=font)
    picture = picture.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR, fillcolor=round(ground))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR)))
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, rng.uniform(0, NOISE), (HEIGHT, WIDTH))
    return torch.from_numpy(np.clip(np.asarray(picture) / 127.5 - 1 + 2 * noise, -1, 1)).float()[None]


def pictures(n: int, seed: int, measured: bool) -> tuple[Tensor, list[str]]:
    """n pictures and the words in them."""
    rng = random.Random(f"words {seed} {measured}")
    chosen = [rng.choice(words(measured)) for _ in range(n)]
    return torch.stack([rendered(word, rng) for word in chosen]), chosen


class OneInput(nn.Module):
    """A recogniser without the second input, which it does not use."""

    def __init__(self, recogniser: nn.Module) -> None:
        super().__init__()
        self.recogniser = recogniser

    def forward(self, x: Tensor) -> Tensor:
        """Scores of characters at each step, (batch, steps, 97)."""
        return self.recogniser(x, None)


def crnn() -> nn.Module:
    folder, weights = folder_of("easyocr"), folder_of("easyocr_en_models") / "models" / "english_g2.pth"
    torchvision = ModuleType("torchvision")
    torchvision.models = ModuleType("torchvision.models")  # type: ignore[attr-defined]
    parent = ModuleType("easyocr_model")
    parent.__path__ = [str(folder / "model")]
    with standing_in(torchvision=torchvision):
        sys.modules["easyocr_model"] = parent
        model = module_at(folder / "model" / "vgg_model.py", "easyocr_model.vgg_model").Model(1, 256, 256, 97)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return OneInput(model).eval()


@cache
def characters() -> str:
    config = module_at(folder_of("easyocr") / "config.py", "easyocr_config")
    return str(config.recognition_models["gen2"]["english_g2"]["characters"])


def letters(scores: Tensor, known: str) -> list[str]:
    """Texts by greedy CTC decoding: the best character of each step, repeats and the blank, which is 0, left out."""
    return ["".join(known[i - 1] for i, _ in groupby(row) if i) for row in scores.argmax(-1).tolist()]


def words_read(model: nn.Module) -> dict[str, float]:
    x, truth = pictures(READ, 0, measured=True)
    with torch.no_grad():
        found = [text for part in x.split(50) for text in letters(model(part), characters())]
    return {"words_read": 100 * sum(a == b for a, b in zip(found, truth, strict=True)) / len(truth)}
