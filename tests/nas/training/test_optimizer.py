"""Optimisers of a network alone: torch's own, with nothing lost in a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas.tasks import Batch, Task
from nas.training.alone import Alone, Distillation, Distilled
from nas.training.config import NotFinite, TrainingConfig
from nas.training.loop import fit
from nas.training.optimizer import check_weights, clip_, make_optimizer, restore_state_, state_tensors
from tests.nas.training.test_loop import CPU, network, train

ADAMW = TrainingConfig(epochs=4, batch_size=32, optimizer="adamw", weight_decay=0.1, clip=1.0, warm_up=0.25)


def stepped(config: TrainingConfig) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    optimizer = make_optimizer(module, config)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return module, optimizer


def test_adamw_learns(task: Task) -> None:
    _, history = train(task, TrainingConfig(epochs=20, batch_size=32, optimizer="adamw", learning_rate=0.03))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_adamw_is_torchs_with_decay_of_weights_alone(momentum: float, task: Task) -> None:
    config = TrainingConfig(epochs=1, batch_size=32, optimizer="adamw", weight_decay=0.1, momentum=momentum)
    learner, plain = Alone(network(), task, config, CPU), network()
    weights = [parameter for parameter in plain.parameters() if parameter.ndim > 1]
    spared = [parameter for parameter in plain.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(momentum, 0.999))  # type: ignore[arg-type]
    images, labels = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))
    for _ in range(5):
        learner.step(Batch(images, labels), 0.01)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    for (name, value), other in zip(plain.named_parameters(), learner.module.parameters(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("distilled", [False, True])
def test_adamw_goes_on_from_a_checkpoint_to_the_same_bits(distilled: bool, task: Task, tmp_path: Path) -> None:
    def run(path: Path | None = None, stop_after: int | None = None) -> dict[str, Tensor]:
        made = (
            Distilled(network(), task, network(), ADAMW, Distillation(), CPU)
            if distilled
            else Alone(network(), task, ADAMW, CPU)
        )

        def stop(history: list) -> None:
            if history[-1]["epoch"] == stop_after:
                raise KeyboardInterrupt

        fit(made, task.train, ADAMW, seed=0, device=CPU, path=path, on_epoch=stop)
        return made.tensors()

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", stop_after=1)
    again = run(tmp_path / "c")
    assert {name.rpartition(".")[2] for name in whole if name.startswith("momenta/")} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    assert whole.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in whole.items())


def test_a_checkpoint_of_sgd_has_its_momenta_by_number_as_ever() -> None:
    config = TrainingConfig(epochs=1, batch_size=32)
    module, optimizer = stepped(config)
    kept = state_tensors(optimizer)
    assert list(kept) == ["0", "1"] and torch.equal(kept["0"], torch.ones(2, 3))
    again = make_optimizer(module, config)
    restore_state_(again, kept)
    assert all(
        torch.equal(again.state[p]["momentum_buffer"], optimizer.state[p]["momentum_buffer"])
        for p in module.parameters()
    )


@pytest.mark.parametrize("what", ["exp_avg", "exp_avg_sq", "momentum_buffer"])
def test_what_an_optimiser_remembers_does_not_escape_the_check_of_weights(what: str) -> None:
    module, optimizer = stepped(TrainingConfig(epochs=1, optimizer="sgd" if what == "momentum_buffer" else "adamw"))
    check_weights(optimizer)
    optimizer.state[module.bias][what][0] = torch.inf
    with pytest.raises(NotFinite, match="must have finite squares"):
        check_weights(optimizer)


def test_a_gradient_is_clipped_over_all_parameters() -> None:
    def gradients(clip: float | None) -> Tensor:
        parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
        parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
        clip_(parameters, clip)
        return torch.cat([parameter.grad for parameter in parameters[:2] if parameter.grad is not None])

    for clip in (None, 6.0):
        assert gradients(clip).tolist() == [3, 0, 4]
    torch.testing.assert_close(gradients(1.0), torch.tensor([0.6, 0, 0.8]))


def test_a_network_alone_takes_clipped_steps(task: Task) -> None:
    config = TrainingConfig(epochs=1, batch_size=32, momentum=0.0, clip=1e-3)
    learner = Alone(network(), task, config, CPU)
    before = torch.cat([parameter.detach().flatten() for parameter in learner.module.parameters()])
    learner.step(Batch(torch.randn(32, 1, 8, 8), torch.randint(10, (32,))), 1.0)
    after = torch.cat([parameter.detach().flatten() for parameter in learner.module.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=1e-3)
