"""A pruned model comes nearer to the unpruned one without labels, whatever its batches and its form."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.pruning import match_
from nas.pruning.examples import Samples
from nas.pruning.nearing import RATES
from nas.pruning.states import Watched, shared_states
from nas.stopping import Stopped
from pruners.surgery import GraphModel
from pruners.tracing import as_batch
from tests.pruners.plain import prune


class Block(nn.Module):
    """Adds to its input what it computes inside."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x).relu())


class Texts(nn.Module):
    """A sum over the tokens that a mask lets through, behind two residual blocks with dropout."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(50, 12), nn.Dropout(0.3)
        self.blocks = nn.ModuleList([Block(12, 32), Block(12, 32)])
        self.head = nn.Linear(12, 3)
        self.fixed = fixed

    def forward(self, ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.drop(self.embed(ids))
        for block in self.blocks:
            x = block(x)
        if self.fixed:
            x = x.reshape(-1, 10, 12)
        return {"states": x, "pooled": self.head((x * attention_mask[..., None]).sum(1))}


def texts(samples: int, longest: int = 10) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    lengths = torch.randint(2, longest + 1, (samples,), generator=generator)
    lengths[0] = longest
    ids = torch.randint(1, 50, (samples, longest), generator=generator)
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"ids": ids * mask, "attention_mask": mask}


def images(samples: int) -> Tensor:
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(samples))


class Around(nn.Module):
    """Adds to an image what two convolutions compute from it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 3, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(x)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Around(), nn.Flatten(), nn.Linear(3 * 64, 5)).eval()


class Counted(nn.Module):
    """Its forward counts channels by a number of its own, so that a smaller one is a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
        self.after = nn.Sequential(nn.Conv2d(16, 6, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.part(x).reshape(-1, 16, 6, 6)).mean((2, 3))


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def far(smaller: nn.Module, model: nn.Module, given: Any) -> float:
    with torch.no_grad():
        ours, theirs = (m(**given)["pooled"] if isinstance(given, dict) else m(given) for m in (smaller, model))
    return float((ours - theirs).square().mean() / theirs.var())


def test_texts_by_name_come_nearer_also_on_others() -> None:
    torch.manual_seed(0)
    model = Texts().train()
    before, unseen = values(model), texts(77)
    result = prune(model, texts(2), {"params": 0.7})
    start = far(result.model, model.eval(), unseen)
    model.train()
    table = result.model.get_parameter("embed.weight").clone()
    done = match_(result, model, [texts(40), texts(41, 7), texts(39)], steps=80)
    assert not done.restored and done.after < 0.7 * done.before and done.steps == 80, done
    assert done.rate in RATES and len(done.tried) >= 2
    assert done.states == ("blocks.0",)  # the second one is the output called states
    assert all(part.training for part in model.modules()) and same(model, before)
    assert far(result.model, model.eval(), unseen) < 0.7 * start
    assert torch.equal(result.model.get_parameter("embed.weight"), table)
    assert not any(part.training for part in result.model.modules())
    assert all(p.grad is None and p.requires_grad for p in result.model.parameters())


def test_the_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(0)
    model = Texts()
    ends = []
    for seed in (3, 3, 4):
        result = prune(model, texts(2), {"params": 0.7})
        match_(result, model, [texts(40)], epochs=2, seed=seed)
        ends.append(values(result.model))
    assert all(torch.equal(x, ends[1][name]) for name, x in ends[0].items())
    assert not all(torch.equal(x, ends[2][name]) for name, x in ends[0].items())


@pytest.mark.parametrize("with_targets", [False, True])
def test_images_with_targets_or_without(with_targets: bool) -> None:
    model = network()
    result = prune(model, images(2), {"macs": 0.6})
    given = [(images(30), torch.zeros(30)) if with_targets else images(30), images(32)]
    done = match_(result.model, model, given, steps=60)
    assert done.after < 0.8 * done.before and done.states == ("0.part", "0"), done


def test_a_graph_is_matched_like_a_module() -> None:
    torch.manual_seed(0)
    model = Counted().eval()
    result = prune(model, images(2), {"macs": 0.5})
    assert isinstance(result.model, GraphModel)
    code, names = result.model.code, set(result.model.state_dict())
    start = far(result.model, model, images(50))
    done = match_(result, model, [images(60)], steps=60, rate=1e-3)
    assert done.after < 0.8 * done.before and done.tried == {}, done
    assert far(result.model, model, images(50)) < 0.8 * start
    assert result.model.code == code and set(result.model.state_dict()) == names


@pytest.mark.parametrize("rate", [10.0, 1e30])
def test_what_came_no_nearer_is_taken_back(rate: float) -> None:
    model = network()
    result = prune(model, images(2), {"macs": 0.6})
    before = values(result.model)
    done = match_(result, model, [images(30)], steps=5, rate=rate)
    assert done.restored and not done.after < done.before and same(result.model, before)


def test_seconds_bound_a_training() -> None:
    model = network()
    result = prune(model, images(2), {"macs": 0.6})
    done = match_(result, model, [images(40)], seconds=2, rate=1e-3)
    assert done.steps >= 1 and 2 <= done.seconds < 20
    tested = match_(result, model, [images(40)], seconds=2)
    assert tested.rate in tested.tried and tested.seconds < 20


def test_logits_are_matched_by_their_divergence() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(6, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.outer(self.inner(x).relu()) + 5}  # which a softmax does not see

    torch.manual_seed(0)
    model, x = Words().eval(), torch.randn(100, 3, 6)
    result = prune(model, x[:2], {"params": 0.5})
    with torch.no_grad():
        result.model.get_parameter("outer.bias").add_(100)
    done = match_(result, model, [x], steps=30, rate=1e-3)
    assert done.before < 1 and done.after < done.before


def test_layers_that_were_left_out_leave_the_others_to_their_own() -> None:
    torch.manual_seed(0)
    model = Texts().eval()
    model.blocks = nn.ModuleList([Block(12, 32) for _ in range(4)])
    smaller = Texts().eval()
    smaller.load_state_dict(model.state_dict(), strict=False)
    smaller.blocks = nn.ModuleList([model.blocks[0], model.blocks[3]])
    batch = as_batch(texts(20))
    with torch.no_grad(), Watched(smaller) as few, Watched(model) as many:
        pairs = shared_states(few(batch), many(batch))
    assert pairs["blocks.0"] == "blocks.0" and "blocks.1" not in pairs.values()


def test_texts_are_cut_to_their_lengths_and_meet_their_like() -> None:
    given = texts(64, 30)
    examples = Samples([given])
    assert [examples.length(n) for n in range(64)] == given["attention_mask"].sum(1).tolist()
    found = examples.one_pass(range(64), 8)
    assert sorted(index for part in found for index in part) == list(range(64))
    used = sum(len(part) * max(map(examples.length, part)) for part in found)
    assert used < 0.75 * given["ids"].numel()
    batch = examples.batch(found[3])
    counts = examples.counts(batch)
    assert counts is not None and counts.sum(1).tolist() == [examples.length(n) for n in found[3]]
    assert (batch.kwargs["ids"][counts == 0] == 0).all()


@pytest.mark.parametrize("fixed", [False, True])
def test_padding_stays_where_the_model_needs_it(fixed: bool) -> None:
    torch.manual_seed(0)
    model = Texts(fixed).eval()
    done = match_(prune(model, texts(2), {"params": 0.8}), model, [texts(30)], steps=20)
    assert done.after < done.before


def test_batches_stay_whole_where_an_output_has_no_dimension_of_samples() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(6, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.inner(x).relu()).transpose(0, 1)

    torch.manual_seed(0)
    model = Turned().eval()
    given = [torch.randn(8, 5, 6) for _ in range(12)]
    done = match_(prune(model, given[0], {"params": 0.5}), model, given, steps=40)
    assert done.after < done.before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of `seconds`, `steps`, `epochs` must be given, got none"),
        ({"seconds": 1, "steps": 2}, "exactly one of .* got {'seconds': 1, 'steps': 2}"),
        ({"seconds": 0}, "`seconds` must be above 0, got 0"),
        ({"steps": 1.5}, "`steps` must be above 0 and whole, got 1.5"),
        ({"steps": 1, "rate": "high"}, "`rate` must be a learning rate above 0 or 'auto', got 'high'"),
        ({"steps": 1, "batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        ({"steps": 1, "batches": []}, "`batches` must hold at least one sample, got none"),
        ({"steps": 1, "batches": [torch.randn(4, 1, 8, 8)]}, "`batches` must fit the model"),
        ({"steps": 1, "batches": [images(4), {"x": images(4)}]}, "`batches` must all have the same inputs"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_changed(settings: dict[str, Any], message: str) -> None:
    model = network()
    smaller = network()
    before = values(smaller)
    with pytest.raises(ValueError, match=message):
        match_(smaller, model, settings.pop("batches", [images(20)]), **settings)
    assert same(smaller, before) and all(p.requires_grad for p in smaller.parameters())


def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr("nas.runtime.checkpoint.SECONDS", 0.0)
    monkeypatch.setattr("nas.runtime.checkpoint.SHARE", math.inf)


@pytest.mark.parametrize("cached", [2**30, 3000])
@pytest.mark.parametrize("stop", [Stopped(15), KeyboardInterrupt()], ids=["told", "killed"])
def test_a_matching_that_is_stopped_goes_on_and_ends_the_same(
    stop: BaseException, cached: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where there is no memory for all that the unpruned model computes; one that is killed goes on from the last checkpoint."""
    monkeypatch.setattr("nas.pruning.aims.CACHED", cached)
    often(monkeypatch)
    model, path = Texts().eval(), tmp_path / "c"
    batches, steps = [texts(30), texts(31)], list[float]()
    cut = prune(model, texts(2), {"params": 0.7}, recover="none", milliseconds=False, importance="l2").model

    def matched(stops: int | None = None, path: Path | None = None) -> tuple[nn.Module, Any]:
        smaller = copy.deepcopy(cut)

        def progress(step: str, done: float, total: float) -> None:
            if step == "matching":
                steps.append(done)
                if len(steps) == stops:
                    raise stop

        return smaller, match_(smaller, model, batches, epochs=4, batch_size=8, path=path, progress=progress)

    whole, done = matched()
    total = len(steps)
    for stops in (3, 10):
        steps.clear()
        with pytest.raises(type(stop)):
            matched(stops, path)
    steps.clear()
    resumed, again = matched(path=path)
    assert len(steps) < total - 8, "steps were taken twice"
    assert {**again.to_dict(), "seconds": 0} == {**done.to_dict(), "seconds": 0} and not done.restored
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_was_spent_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    often(monkeypatch)
    model, path = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)), tmp_path / "c"

    def stop(step: str, done: float, total: float) -> None:
        if step == "matching" and done > 0.5:
            raise Stopped(15)

    with pytest.raises(Stopped):
        match_(model, model, [torch.randn(64, 6)], seconds=1, path=path, progress=stop)
    seen: list[float] = []
    done = match_(model, model, [torch.randn(64, 6)], seconds=1, path=path, progress=lambda *told: seen.append(told[1]))
    assert seen[0] > 0.5 and done.seconds >= 1
