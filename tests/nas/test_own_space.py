"""The example of a space of one's own: short, a slice to the last bit, searched and exported on digits."""

from __future__ import annotations

from pathlib import Path

import torch

import nas
from examples.own_space import own_space
from nas.data.dataset import ImageData
from tests.conformance import check_space
from tests.subnets import check_costs, check_slice, images, stirred

ROOT = Path(__file__).parents[2]


def test_the_example_is_short_and_the_docs_show_all_of_it() -> None:
    source = (ROOT / "examples" / "own_space.py").read_text()
    assert len(source.splitlines()) < 40
    code = source.split('"""\n', 1)[1].strip()
    assert code in (ROOT / "docs" / "search.md").read_text()


def test_it_keeps_the_contracts() -> None:
    space = own_space()
    check_space(space)
    assert space.size == 42
    supernet = stirred(space)
    for arch in space.enumerate():
        check_slice(space, supernet, arch)
    check_costs(space, space.enumerate())


def test_it_is_trained_searched_and_exported(digits: ImageData, tmp_path: Path) -> None:
    study = nas.search(
        own_space(),
        digits,
        strategy="evolution",
        epochs=2,
        alone_epochs=1,
        trials=12,
        batch_size=32,
        out=tmp_path / "run",
    )
    assert len(study.trials) == 12 and len(study.front) > 0
    folders = sorted((tmp_path / "run" / "exports").iterdir())
    assert len(folders) == len(study.front)
    arch = study.find(study.front["architecture"].iloc[0])
    exported = nas.load(study.place("exports", arch), space=own_space())
    assert type(exported.layer1.conv) is torch.nn.Conv2d
    logits = exported(images(study.space))
    assert logits.shape == (3, 10) and logits.isfinite().all()
