"""A graph serves every size that the model allows: equal to the masked model there, and refused elsewhere."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import PruneResult, load
from pruners.operators.nodes import tensors_in
from pruners.surgery.every_size import find_again, other_sizes
from pruners.surgery.masked import difference, run_traced
from pruners.tracing.trace import trace
from tests.pruners.hugging_face import language, tokens
from tests.pruners.plain import prune

every_size = importlib.import_module("pruners.surgery.every_size")


class Rooted(nn.Module):
    """Features divided by one more than the root of how many there are, which the module itself cannot express for fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(y / (1 + y.shape[-1] ** 0.5))


class LongOrShort(Rooted):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if x.shape[1] > 6 else 1.0)


class ManyOrFew(Rooted):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if x.shape[0] > 4 else 1.0)


class Alone(Rooted):
    """Says something else where there is one sample, or one place, only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if x.shape[0] == 1 or x.shape[1] == 1 else 1.0)


class Placed(Rooted):
    """As many places as there are positions."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.places)


class Halved(Rooted):
    """Two halves of a length."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(x.shape[0], 2, x.shape[1] // 2, 4).sum(1))


class Images(nn.Module):
    """Strides, channels by halves, resizing to the input and a head over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head, self.classes = nn.Conv2d(16, 5, 1), nn.Linear(16, 7)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.norm(self.stem(x)).relu().split([8, 8], dim=1)
        y = torch.cat([self.left(left), self.right(right)], 1).relu()
        y = y / y.shape[1] ** 0.5
        full = nn.functional.interpolate(self.head(y), size=x.shape[-2:], mode="bilinear")
        return full, self.classes(y.flatten(2).mean(-1))


def llama() -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    return language("LlamaForCausalLM", num_key_value_heads=2, **sizes)


def gpt2() -> nn.Module:
    return language("GPT2LMHeadModel", n_positions=64, n_embd=32, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=2)


def encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], tuple[int, ...], list[tuple[int, ...]]]] = {
    "rooted": (Rooted, torch.randn, (2, 5, 4), [(3, 16, 4), (2, 2, 4)]),
    "positions by sample": (lambda: encoder(True), torch.randn, (1, 8, 32), [(3, 12, 32), (4, 8, 32)]),
    "samples by position": (lambda: encoder(False), torch.randn, (8, 2, 32), [(12, 3, 32)]),
    "images": (Images, torch.randn, (1, 3, 16, 16), [(2, 3, 23, 18), (3, 3, 40, 8)]),
    "llama": (llama, tokens, (1, 9), [(2, 32), (3, 4)]),
    "gpt2": (gpt2, tokens, (2, 9), [(3, 32)]),
}


def masked(result: PruneResult, model: nn.Module, x: Tensor) -> list[Tensor]:
    """What the masked model returns, by a trace of its own at just these sizes."""
    return run_traced(find_again(result.plan, trace(model, (x,))))


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if x == "llama" else x for x in MODELS])
def test_other_sizes_equal_the_masked_model(name: str, tmp_path: Path) -> None:
    make, draw, example, others = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    result = prune(model, draw(*example), {"macs": 0.5})
    assert result.summary.form == "graph" and result.plan.every_size
    result.save(tmp_path)
    again = load(tmp_path, model)
    for shape in others:
        x = draw(*shape)
        found = [y.detach() for y in tensors_in(result.model(x))]
        assert difference(found, masked(result, model, x)) < 1e-5
        assert all(map(torch.equal, tensors_in(again(x)), found))


def test_one_sample_and_one_place() -> None:
    torch.manual_seed(0)
    smaller, x = prune(gpt2(), tokens(2, 9), {"macs": 0.5}).model, tokens(2, 9)
    torch.testing.assert_close(smaller(x[:1])[0], smaller(x)[0][:1])
    torch.testing.assert_close(smaller(x[:, :1])[0], smaller(x)[0][:, :1])  # causal


def test_a_mask_has_the_sizes_of_the_tokens() -> None:
    torch.manual_seed(0)
    x, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    result = prune(llama(), {"input_ids": x, "attention_mask": mask}, {"macs": 0.5})
    assert result.summary.serves == {"input_ids": "NxL", "attention_mask": "NxL"}
    assert result.model(input_ids=x[:1, :4], attention_mask=mask[:1, :4])[0].shape[:2] == (1, 4)
    with pytest.raises(ValueError, match="NxL for 'attention_mask', N = 2, L = 9, got 2x8"):
        result.model(input_ids=x, attention_mask=mask[:, 1:])


@pytest.mark.parametrize(
    ("make", "example", "fine", "other", "rule"),
    [
        (LongOrShort, (2, 5, 4), (3, 6, 4), (2, 7, 4), "L <= 6 of NxLx4, got N = 2, L = 7"),
        (LongOrShort, (2, 8, 4), (3, 20, 4), (2, 6, 4), "L > 6 of NxLx4, got N = 2, L = 6"),
        (ManyOrFew, (2, 4), (4, 4), (5, 4), "N <= 4 of Nx4, got N = 5"),
        (Alone, (2, 5, 4), (3, 7, 4), (1, 5, 4), "N >= 2 of NxLx4, got N = 1, L = 5"),
        (Alone, (2, 5, 4), (3, 7, 4), (2, 1, 4), "L >= 2 of NxLx4, got N = 2, L = 1"),
        (Halved, (2, 6, 4), (2, 10, 4), (2, 7, 4), r".* of NxLx4, got N = 2, L = 7"),
    ],
)
def test_the_other_side_of_a_branch_is_refused(
    make: Callable[[], nn.Module],
    example: tuple[int, ...],
    fine: tuple[int, ...],
    other: tuple[int, ...],
    rule: str,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    result = prune(model, torch.randn(example), {"macs": 0.6})
    result.save(tmp_path)
    for smaller in (result.model, load(tmp_path, model)):
        x = torch.randn(fine)
        assert difference([smaller(x).detach()], masked(result, model, x)) < 1e-5
        with pytest.raises(ValueError, match=f"as the traced ones were, here {rule}; prune with"):
            smaller(torch.randn(other))


def test_sizes_that_the_model_fixes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every_size, "trace", lambda *args, **kwargs: pytest.fail("nothing to gain by another trace"))
    result = prune(Placed(), torch.randn(2, 5, 4), {"macs": 0.6})
    assert not result.plan.every_size and result.model(torch.randn(3, 5, 4)).shape == (3, 5, 3)
    assert result.summary.fixed == "the model runs at no others"
    with pytest.raises(ValueError, match="Nx5x4 for 'x', N = 2, got 2x6x4; prune with"):
        result.model(torch.randn(2, 6, 4))


def test_what_is_not_proved_at_other_sizes_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise ValueError("differs")

    monkeypatch.setattr(every_size, "verify", refuse)
    result = prune(Rooted(), torch.randn(1, 5, 4), {"macs": 0.6})
    assert result.summary.serves == {"x": "Nx5x4"} and result.model(torch.randn(1, 5, 4)).shape == (1, 5, 3)
    assert result.summary.fixed == "differs"


def test_tracing_is_given_up_where_it_would_take_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("pruners.operators.sizes"), "MOST_SECONDS", 0.0)
    summary = prune(LongOrShort(), torch.randn(2, 5, 4), {"macs": 0.6}).summary
    assert (
        summary.serves == {"x": "Nx5x4"} and summary.fixed == "tracing with every size free takes longer than 0 seconds"
    )


def test_many_conditions_are_no_reason_to_fix_a_size() -> None:
    class Branching(Rooted):
        def forward(self, x: Tensor) -> Tensor:
            for size in range(100, 170):
                x = x if x.shape[1] == size else x + 1
            return super().forward(x)

    summary = prune(Branching(), torch.randn(2, 5, 4), {"macs": 0.6}).summary
    assert summary.serves == {"x": "NxLx4"} and summary.fixed is None


def test_conditions_that_round_are_checked_at_every_size() -> None:
    class Resized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.interpolate(self.first(x).relu(), scale_factor=0.5)
            return self.last(x / x.shape[1] ** 0.5)

    model = Resized().eval()
    result = prune(model, torch.randn(2, 3, 16, 16), {"macs": 0.5})
    assert result.summary.serves == {"x": "Nx3xHxW"}
    for x in (torch.randn(1, 3, 20, 27), torch.randn(3, 3, 11, 16)):
        found = copy.deepcopy(result.model)(x).detach()
        assert difference([found], masked(result, model, x)) < 1e-5
    with pytest.raises(ValueError, match="computed as the traced ones were"):
        result.model(torch.randn(1, 3, 4, 16))


def test_a_result_is_pruned_again() -> None:
    torch.manual_seed(0)
    result = prune(encoder(True), torch.randn(2, 8, 32), {"macs": 0.7})
    again = prune(result.model, torch.randn(2, 8, 32), {"macs": 0.7})
    x = torch.randn(3, 11, 32)
    assert again.plan.every_size
    assert difference([again.model(x).detach()], masked(again, result.model, x)) < 1e-5


def test_sizes_for_the_proof_keep_the_rules() -> None:
    traced = trace(Halved(), (torch.randn(2, 12, 4),), every_size=True)
    assert traced.sizes.traced == {"N": 2, "L": 12}
    others = other_sizes(traced.sizes)
    assert others is not None and others["N"] != 2 and others["L"] != 12 and others["L"] % 2 == 0
    assert [x.shape for x in traced.resized(others).args] == [(others["N"], others["L"], 4)]
    fixed = replace(traced.sizes, _conditions=(*traced.sizes._conditions, traced.sizes.symbols["L"][0] > 10**6))
    assert other_sizes(fixed) is None


def test_a_batch_beside_other_inputs_is_one_size() -> None:
    class Two(Rooted):
        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return super().forward(x) + shift.mean(0)

    traced = trace(Two(), (torch.randn(3, 4), torch.randn(3, 3)), every_size=True)
    assert list(traced.sizes.shapes.values()) == [("N", 4), ("N", 3)]


def test_what_a_model_writes_as_it_runs_is_not_in_its_graph() -> None:
    class Renormed(Rooted):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 4, max_norm=0.5)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.embed(x))

    torch.manual_seed(0)
    model, x = Renormed().eval(), torch.randint(0, 20, (2, 5))
    before = model.embed.weight.detach().clone()
    result = prune(model, x, {"macs": 0.6})
    assert result.plan.every_size and torch.equal(result.model.get_parameter("embed.weight"), before)
