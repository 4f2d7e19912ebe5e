"""Both kinds of spaces keep the contract of a search, and nothing but `contract` tells them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import count
from nas import Study, configure
from nas.pruning.space import searchable
from nas.scoring.contract import contract
from nas.supernets import Supernets, make_learner
from nas.tasks import Task
from nas.training.measure import measure
from pruners import PrunableSpace
from pruners.progress import silent
from search_spaces import SearchSpace, make_space

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
KINDS = ["untrained", "supernet", "trained model"]


def make(kind: str) -> SearchSpace:
    if kind != "trained model":
        return make_space("resnet20-pooling", in_channels=1, image_size=8, operators=["max", "conv"], bn="affine")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6, 10)
    )
    return searchable(PrunableSpace(model.eval(), torch.zeros(1, 1, 8, 8), steps=4))


@pytest.fixture(params=KINDS)
def study(request: pytest.FixtureRequest, task: Task, tmp_path: Path) -> Study:
    space = make(request.param)
    settings = {"strategy": "one-shot"} if request.param == "supernet" else {"strategy": "random", "supernets": 0}
    config = configure(space.name, "digits", trials=1, epochs=1, batch_size=32, device="cpu", **settings)
    return Study.create(tmp_path / "run", config, space, task, {})


@pytest.fixture
def learner(study: Study, task: Task) -> Supernets | None:
    shared = study.config.supernets
    return make_learner(shared, study.space, task, seed=0, device=CPU, mixture=False) if shared.count else None


def test_costs_are_those_of_the_built_network(study: Study) -> None:
    space = study.space
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(3)]
    for arch, figures in zip(archs, contract(space).costs(archs, silent), strict=True):
        total = count(space.build(arch), space.net.input_shape).total
        assert (figures["macs"], figures["params"]) == (total.macs, total.params)


def test_networks_are_built_alike_twice(study: Study, task: Task) -> None:
    arch = study.space.sample(np.random.default_rng(0))
    first, second = (study.space.build(arch, seed=3).eval() for _ in range(2))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    logits: Tensor = first(torch.zeros(2, *(task.input_shape or ())))
    assert logits.shape == (2, task.outputs)


def test_a_search_starts_with_architectures_of_the_space_the_largest_first(study: Study) -> None:
    kept = contract(study.space)
    start = kept.start()
    assert len(set(start)) == len(start)
    for arch in start:
        study.space.check(arch)
    params = [figures["params"] for figures in kept.costs(start, silent)]
    assert params == sorted(params, reverse=True) and bool(start) != kept.trains


def test_a_trial_is_worth_what_its_weights_are_worth(study: Study, learner: Supernets | None, task: Task) -> None:
    kept, arch = contract(study.space), study.space.sample(np.random.default_rng(1))
    (figures,) = kept.worth(study.config, task, ["accuracy"], CPU, learner)([arch], silent)
    assert 0 <= figures["accuracy"] <= 1
    study.add("search", arch, [figures["accuracy"], 1.0], {})
    if kept.trains and learner is None:
        with pytest.raises(ValueError, match="was not trained alone, and the run has no supernet to take weights from"):
            kept.weights(study, arch, task, learner)
    else:
        module = kept.weights(study, arch, task, learner)
        assert not module.training
        if kept.trains:  # of a trained model what leaves the search is repaired layer by layer
            assert measure(module, task, task.validation) == figures
        means = [value for name, value in module.state_dict().items() if name.endswith("running_mean")]
        assert means and all(mean.abs().max() > 0 for mean in means), "0 until they are gathered on training images"


def test_the_words_say_where_an_accuracy_comes_from(request: pytest.FixtureRequest, study: Study) -> None:
    kept, kind = contract(study.space), request.node.callspec.params["study"]
    worth = {
        "untrained": "trained on training images",
        "supernet": "its weights in the supernet",
        "trained model": "the weights that are left, batch statistics gathered again",
    }
    assert kept.worth_in_words(study.config) == worth[kind]
    assert kept.source == ("trained model" if kind == "trained model" else "supernet")


def test_what_does_not_fit_is_refused(study: Study) -> None:
    kept = contract(study.space)
    kept.check(study.config)
    kept.check_limits({"params": 1e9})
    asked = configure(study.space.name, "digits", strategy="one-shot", objectives=["accuracy", "activations"])
    if kept.trains:
        kept.check(asked)
        with pytest.raises(
            ValueError, match="to have params of at most 1: the nearest is .* with params 272,186; allow more"
        ):
            kept.check_limits({"params": 1})
    else:
        with pytest.raises(ValueError, match="is a trained model: .* got one-shot, 1 and accuracy, activations"):
            kept.check(asked)


def test_one_place_tells_trained_models_from_other_spaces() -> None:
    files = [path for path in (ROOT / "nas").rglob("*.py") if "PrunedNetwork" in path.read_text(encoding="utf-8")]
    names = {path.relative_to(ROOT / "nas").as_posix() for path in files}
    assert names == {"pruning/__init__.py", "pruning/space.py", "scoring/contract.py", "scoring/weights.py", "train.py"}
