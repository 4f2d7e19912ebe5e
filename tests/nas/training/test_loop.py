"""The training loop: the same weights however often it is stopped, and no silent nonsense."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from nas import stopping
from nas.runtime import checkpoint
from nas.tasks import Batch, Task
from nas.training.alone import Alone
from nas.training.config import NotFinite, TrainingConfig, learning_rate
from nas.training.loop import fit
from nas.training.optimizer import check_weights, make_optimizer

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def train(task: Task, config: TrainingConfig, path: Path | None = None, stop_after: int | None = None, **settings):
    learner = Alone(network(), task, config, CPU)

    def stop(history: list) -> None:
        if history[-1]["epoch"] == stop_after:
            raise KeyboardInterrupt

    history = fit(learner, task.train, config, seed=0, device=CPU, path=path, on_epoch=stop, **settings)
    return learner, history


def test_it_learns(task: Task) -> None:
    _, history = train(task, TrainingConfig(epochs=8, batch_size=32))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert [row["epoch"] for row in history] == list(range(8))


def test_resuming_equals_not_stopping(task: Task, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=4, batch_size=32)
    whole, rows = train(task, config)
    for stop in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            train(task, config, tmp_path / "c", stop_after=stop)
    resumed, again = train(task, config, tmp_path / "c")
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    assert [row["loss"] for row in rows] == [row["loss"] for row in again]


def test_a_finished_training_is_not_repeated(task: Task, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=32)
    train(task, config, tmp_path / "c")
    seen: list[float] = []
    train(task, config, tmp_path / "c", progress=lambda step, done, total: seen.append(done))
    assert seen == [2]


def test_a_checkpoint_cut_short_goes_back_one_epoch(task: Task, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=3, batch_size=32)
    whole, _ = train(task, config)
    with pytest.raises(KeyboardInterrupt):
        train(task, config, tmp_path / "c", stop_after=1)
    data = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match="damaged.*earlier state"):
        resumed, _ = train(task, config, tmp_path / "c")
    assert torch.equal(whole.module[4].weight, resumed.module[4].weight)


def test_a_checkpoint_with_a_renamed_tensor_goes_back_one_epoch(tmp_path: Path) -> None:
    for epochs in (1, 2):
        checkpoint.save(tmp_path / "c", {"weights": torch.full((2,), epochs)}, {"epochs": epochs, "history": []})
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes().replace(b"weights", b"heights"))
    with pytest.warns(UserWarning, match="c is damaged .*digest.*; going on from an earlier state, .*c.previous"):
        found = checkpoint.load(tmp_path / "c")
    assert found is not None and found.state["epochs"] == 1 and found.tensors["weights"].tolist() == [1, 1]


def test_nothing_readable_left_says_what_to_remove(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"not safetensors")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match="remove .* to train this part again"),
    ):
        checkpoint.load(tmp_path / "c")


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "c") is None


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(task: Task, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=3, batch_size=32)
    with pytest.raises(KeyboardInterrupt):
        train(task, config, tmp_path / "c", stop_after=0)
    kept = (tmp_path / "c").read_bytes()
    bad = Alone(network(), task, config, CPU)
    bad.restore = lambda tensors: nn.init.constant_(bad.module[4].weight, float("nan"))  # type: ignore[method-assign, assignment]
    with pytest.raises(NotFinite, match="loss must be finite, got nan; lower `learning_rate`"):
        fit(bad, task.train, config, seed=0, device=CPU, path=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == kept


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_weights_that_the_last_step_of_an_epoch_breaks_are_not_kept(
    value: float, momentum: float, task: Task, tmp_path: Path
) -> None:
    config = TrainingConfig(epochs=3, batch_size=32, momentum=momentum)
    with pytest.raises(KeyboardInterrupt):
        train(task, config, tmp_path / "c", stop_after=0)
    kept = (tmp_path / "c").read_bytes()
    steps = len(task.train) // 32

    class Breaking(Alone):
        taken = 0

        def step(self, batch: Batch, learning_rate: float) -> None:
            self.taken += 1
            super().step(batch, value if self.taken == steps else learning_rate)

    bad = Breaking(network(), task, config, CPU)
    with pytest.raises(NotFinite, match="weights must have finite squares.*lower `learning_rate`.*after 1 epochs"):
        fit(bad, task.train, config, seed=0, device=CPU, path=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == kept
    _, history = train(task, config, tmp_path / "c")
    assert [math.isfinite(row["loss"]) for row in history] == [True] * 3


def test_the_learning_rate_follows_half_a_cosine() -> None:
    config = TrainingConfig(epochs=10, learning_rate=0.1, final_learning_rate=0.02)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 5) == pytest.approx(0.06)
    assert learning_rate(config, 10) == pytest.approx(0.02)
    assert learning_rate(config, 2.5) == pytest.approx(0.02 + 0.08 * (1 + math.cos(math.pi / 4)) / 2)


def test_the_exponential_schedule_never_leaves_its_floor_once_it_is_there() -> None:
    config = TrainingConfig(epochs=90, learning_rate=0.4, schedule="exponential")
    rates = [learning_rate(config, epoch / 10) for epoch in range(901)]
    assert rates[0] == 0.4 and rates == sorted(rates, reverse=True)
    assert rates[599] > 0.02 and rates[601:] == [pytest.approx(0.02)] * 300
    assert rates[150] / rates[50] == pytest.approx(rates[450] / rates[350])


def test_one_cycle_rises_for_three_tenths_and_then_falls_to_the_end() -> None:
    config = TrainingConfig(epochs=10, learning_rate=0.5, final_learning_rate=0.001, schedule="one-cycle")
    rates = [learning_rate(config, epoch / 10) for epoch in range(101)]
    assert rates[0] == pytest.approx(0.02) and rates[30] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.001)
    assert rates[:31] == sorted(rates[:31]) and rates[30:] == sorted(rates[30:], reverse=True)


@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_a_warm_up_rises_along_a_line_and_leaves_the_schedule_the_other_epochs(schedule: str) -> None:
    config = TrainingConfig(epochs=20, learning_rate=0.4, schedule=schedule, warm_up=0.25)
    rises = [learning_rate(config, epoch / 4) for epoch in range(20)]
    assert rises == [pytest.approx(0.4 * step / 20) for step in range(20)] and rises[0] == 0
    rest = TrainingConfig(epochs=15, learning_rate=0.4, schedule=schedule)
    assert [learning_rate(config, 5 + epoch) for epoch in range(16)] == [learning_rate(rest, e) for e in range(16)]


def test_parameters_without_a_part_in_the_step_keep_their_bits(task: Task) -> None:
    used, unused = nn.Linear(64, 10), nn.Linear(64, 10)
    module = nn.ModuleList([used, unused])
    config = TrainingConfig(epochs=1, batch_size=32, weight_decay=0.1)
    learner = Alone(module, task, config, CPU)
    module.forward = lambda x: used(x.flatten(1))  # type: ignore[method-assign]
    before = unused.weight.clone()
    fit(learner, task.train, config, seed=0, device=CPU)
    assert torch.equal(unused.weight, before)


def test_a_batch_larger_than_the_split_takes_all_of_it(task: Task) -> None:
    sizes: list[int] = []
    config = TrainingConfig(epochs=2, batch_size=10_000)
    learner = Alone(network(), task, config, CPU)
    learner.module.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    fit(learner, task.train.head(50), config, seed=0, device=CPU)
    assert sizes == [50, 50]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight"])
def test_no_parameter_escapes_the_check_of_weights(name: str, weight_decay: float) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = make_optimizer(module, TrainingConfig(epochs=1, weight_decay=weight_decay))
    check_weights(optimizer)
    with torch.no_grad():
        module.get_parameter(name)[0] = torch.inf
    with pytest.raises(NotFinite, match="must have finite squares"):
        check_weights(optimizer)


@pytest.mark.parametrize("last", [2, 4, 7])
def test_a_command_that_is_stopped_goes_on_within_the_epoch(last: int, task: Task, tmp_path: Path) -> None:
    """After the last step, also in the middle of the next one, with dropout: the weights of a training that was never stopped."""

    def noisy() -> Alone:
        return Alone(nn.Sequential(nn.Dropout(0.3), *network()), task, config, CPU)

    config = TrainingConfig(epochs=2, batch_size=32)
    whole, halted = noisy(), noisy()
    rows = fit(whole, task.train, config, seed=0, device=CPU)
    plain, taken = halted.step, 0

    def step(batch: Batch, rate: float) -> None:
        nonlocal taken
        taken += 1
        if taken == last:
            signal.raise_signal(signal.SIGTERM)
        plain(batch, rate)

    halted.step = step  # type: ignore[method-assign]
    torch.manual_seed(7)
    with stopping.raised(), pytest.raises(stopping.Stopped):
        fit(halted, task.train, config, seed=0, device=CPU, path=tmp_path / "c")
    assert taken == last
    resumed, seen = noisy(), list[float]()
    again = fit(
        resumed,
        task.train,
        config,
        seed=0,
        device=CPU,
        path=tmp_path / "c",
        progress=lambda step, done, total: seen.append(done),
    )
    assert len(seen) == 1 + 2 * task.train.steps(32) - last, "steps were taken twice"
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    assert [(row["loss"], row["learning_rate"]) for row in rows] == [
        (row["loss"], row["learning_rate"]) for row in again
    ]
