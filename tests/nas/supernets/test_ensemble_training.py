"""Ensembles from training to files: every head learns from labels, in a supernet and alone, and what cannot be combined is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import nas
from nas.cli.options import space_options
from nas.cli.profile import profile
from nas.export import export
from nas.study import configure, run_folder
from nas.study.spaces import build_space
from nas.supernets.config import SupernetConfig
from nas.supernets.make import make_learner
from nas.supernets.samplers import SAMPLERS
from nas.supernets.team import OneSupernet
from nas.tasks import Classes, Task
from nas.training.alone import Alone
from nas.training.config import TrainingConfig
from nas.training.loop import fit
from nas.training.optimizer import make_optimizer
from search_spaces import ensemble
from search_spaces.core.paths import divide_gradient
from tests.elastic_toy import elastic_space
from tests.nas.supernets.test_slices import HARD, batch, state, team, train
from tests.subnets import images

CPU = torch.device("cpu")
BASE = elastic_space()
SPACE = ensemble(BASE)


def test_a_gradient_is_divided_and_nothing_else() -> None:
    x = torch.tensor([3.0, -0.0], requires_grad=True)
    out = divide_gradient(x, 4)
    assert torch.equal(out, x)
    (out * torch.tensor([8.0, 2.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 0.5]


@pytest.mark.parametrize("seed", range(4))
def test_inside_its_slice_an_ensemble_trains_as_it_would_alone(seed: int) -> None:
    made, arch = team(SPACE), SPACE.sample(np.random.default_rng(seed))
    start = state(made.members[0])
    alone = made.members[0].supernet.extract(SPACE.locals(arch))
    optimizer = make_optimizer(alone, HARD)
    for _ in range(2):
        train(made, arch)
        optimizer.zero_grad()
        x, labels = batch()
        Classes().loss(alone(x), labels).backward()
        optimizer.step()
    again = made.members[0].supernet.extract(SPACE.locals(arch))
    for (name, value), other in zip(alone.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)
    split = arch["split"]
    assert isinstance(split, int)
    for name in [f"path2_{block.name}" for block in BASE.net.blocks[:split]]:
        for key, value in made.members[0].supernet.blocks[name].named_parameters():
            assert torch.equal(value, start[f"blocks.{name}.{key}"])


def test_the_loss_is_the_sum_over_heads() -> None:
    goal = Classes().smoothed(0.1)
    logits, labels = torch.randn(6, 3, 10), torch.randint(10, (6,))
    each = [goal.loss(logits[:, head], labels) for head in range(3)]
    torch.testing.assert_close(goal.loss(logits, labels), sum(each))


def test_an_ensemble_alone_trains_every_head(task: Task) -> None:
    config = TrainingConfig(epochs=3, batch_size=50)
    module = SPACE.net.build(SPACE.locals(SPACE.sample(np.random.default_rng(1))))
    before = [path[-1].linear.weight.clone() for path in module.paths]
    history = fit(Alone(module, task, config, CPU), task.train, config, seed=0, device=CPU)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    for path, old in zip(module.paths, before, strict=True):
        assert not torch.equal(path[-1].linear.weight, old)
    assert module(images(SPACE)).shape == (3, 10)
    torch.testing.assert_close(module(images(SPACE)).exp().sum(1), torch.ones(3))


@pytest.mark.parametrize("sampler", ["uniform", "groups"])
def test_a_stop_changes_nothing(sampler: str, task: Task, tmp_path: Path) -> None:
    config = SupernetConfig(sampler=sampler, training=TrainingConfig(epochs=3, batch_size=50))

    def trained(path: Path | None, stop_after: int | None = None) -> OneSupernet:
        learner = make_learner(config, SPACE, task, seed=0, device=CPU, mixture=False)
        assert isinstance(learner, OneSupernet)

        def stop(history: list) -> None:
            if history[-1]["epoch"] == stop_after:
                raise KeyboardInterrupt

        fit(learner, task.train, config.training, seed=0, device=CPU, path=path, on_epoch=stop)
        return learner

    whole = trained(None).tensors()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "c", 1)
    again = trained(tmp_path / "c").tensors()
    assert whole.keys() == again.keys() and all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("sampler", [name for name, entry in SAMPLERS.items() if not entry.serves_heads])
def test_samplers_that_do_not_serve_heads_are_refused(sampler: str, task: Task) -> None:
    shared = SupernetConfig(sampler=sampler, training=TrainingConfig(epochs=8))
    with pytest.raises(
        ValueError, match=f"learn from labels: 'toy-paths2' takes no `teacher` .* uniform, .* and {sampler}"
    ):
        make_learner(shared, SPACE, task, seed=0, device=CPU, mixture=False)
    taught = SupernetConfig(teacher="module:function")
    with pytest.raises(ValueError, match="got teacher module:function and uniform"):
        make_learner(taught, SPACE, task, seed=0, device=CPU, mixture=False)


def test_a_search_within_macs_ends_in_files(tmp_path: Path) -> None:
    study = nas.search(
        "resnet-elastic",
        "digits",
        strategy="evolution",
        space_options={"paths": 2, "choices": "depth", "widths": [4, 4, 8]},
        limits={"macs": 150e3},
        trials=8,
        epochs=2,
        retrain="none",
        batch_size=50,
        limit=200,
        test_limit=50,
        out=tmp_path / "run",
    )
    study = nas.Study.open(study.folder)
    assert study.space.name == "resnet-elastic-paths2" and study.config.limits == {"macs": 150e3}
    assert len(study.trials) == 8 and study.trials["macs"].max() <= 150e3
    assert len({study.find(key)["split"] for key in study.trials["architecture"]}) > 2

    task = study.task()
    arch = study.find(study.front["architecture"].iloc[0])
    folder = export(study, arch, tmp_path / "exported", ("onnx",), task)
    described = json.loads((folder / "architecture.json").read_text())
    assert described["space"]["options"]["paths"] == 2 and described["choices"]["split"] == arch["split"]
    loaded, x = nas.load(folder), next(task.test.batches(5)).inputs
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = loaded(x).numpy()
    np.testing.assert_allclose(np.exp(expected).sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[0], expected, rtol=1e-3, atol=1e-4)


def test_any_space_has_ensembles_by_name() -> None:
    space = build_space("examples.own_space:own_space", {"paths": 3, "splits": [1, 2]})
    assert space.net.heads == 3 and dict(space.options)["splits"] == [2, 1]
    one = build_space("nas-bench-macro", {"paths": 1})
    assert one.name == "nas-bench-macro" and one.net.heads == 1
    assert space_options({"depth": 32}, "width,depth", 2) == {"depth": 32, "choices": ["width", "depth"], "paths": 2}
    config = configure("resnet-elastic", "digits", strategy="random", space_options={"paths": 2})
    assert run_folder(config, config.strategy) == Path("runs/resnet-elastic-paths2-digits-random-seed0")
    found = profile("nas-bench-macro", arch=f"2-{'1' * 8}-{'2' * 7}", options={"paths": 2, "splits": [2]})
    assert found.totals["macs"] > 0 and "nas-bench-macro-paths2" in found.title
