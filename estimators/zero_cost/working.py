"""What the scores share: a copy of the model to spoil, its weights, and how it is run on a batch.

A batch is (inputs, targets). Inputs are what the model takes: a tensor, a tuple of positional arguments or a dictionary of keyword
arguments, with the samples along the first dimension.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from estimators.counting import device_of, standing_in, without_fused_attention
from search_spaces.core import seeded

Batch = tuple[Any, Any]
Loss = Callable[[Any, Any], Tensor]

BatchNorm = nn.modules.batchnorm._BatchNorm
InstanceNorm = nn.modules.instancenorm._InstanceNorm
NORMS = (BatchNorm, nn.GroupNorm, nn.LayerNorm, InstanceNorm, nn.RMSNorm)
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
WEIGHT = re.compile(r"weight[^.]*(\.original\d*)?$")  # `.original`, `.original0`: under a parametrisation


@contextmanager
def working_copy(model: nn.Module, seed: int) -> Iterator[nn.Module]:
    """A float32 copy in evaluation mode, with norms that take the statistics of the batch, whose parameters all take gradients.

    torch's generators are seeded for the while, and autocast and inference mode are off. All of it, and the model, are left as they
    were.
    """
    device = device_of(model)
    with (
        torch.inference_mode(False),
        _without_autocast(device),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        seeded(seed),
        torch.enable_grad(),
    ):
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        own = standing_in(model, device).float()
        for parameter in own.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
            parameter.grad = None
        for part in own.modules():
            _prepare(part)
        # layers in one operator hide their activations, and fused kernels have no second and no forward derivatives
        with without_fused_attention(), sdpa_kernel(SDPBackend.MATH):
            yield own


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def _prepare(part: nn.Module) -> None:
    if getattr(part, "inplace", False):
        part.inplace = False  # type: ignore[assignment]
    if isinstance(part, (BatchNorm, InstanceNorm)):
        part.training = True  # not train(): a norm may hold dropout
    if isinstance(part, BatchNorm):
        part.register_forward_pre_hook(_needs_two_values)
    if isinstance(part, nn.RNNBase):
        part.training, part.dropout = True, 0.0  # cuDNN has gradients of recurrent layers in training mode only


def _needs_two_values(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
    """A batch norm that sees a single value per channel has no variance and takes its running statistics."""
    norm.training = args[0].numel() > args[0].shape[1]


def single(batch: Batch) -> Batch:
    """Floating-point tensors in float32, and none that was made in inference mode."""

    def plain(leaf: Any) -> Any:
        leaf = leaf.float() if floating(leaf) else leaf
        return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf

    return tree_map(plain, batch)


def check_batch(batch: Batch) -> None:
    """Refuse what is no batch.

    Raises:
        ValueError: not a pair, or its tensors do not all hold the same number of samples, at least one. Tensors without dimensions
            are not looked at.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(f"`batch` must be (inputs, targets), got {type(batch).__name__}; give a pair")
    inputs, targets = ([len(leaf) for leaf in _tensors(part) if leaf.dim()] for part in batch)
    if 0 in inputs + targets:
        raise ValueError(f"`batch` must hold at least one sample, got {_told(inputs, targets)}; give some")
    if len({*inputs, *targets}) > 1:
        raise ValueError(
            f"`batch` must have its samples along the first dimension of every tensor, got {_told(inputs, targets)}; give as many "
            "targets as inputs, and wrap a model that takes tensors which are not per sample"
        )


def _told(inputs: list[int], targets: list[int]) -> str:
    return f"inputs of length {', '.join(map(str, inputs)) or 'none'} and targets of length {', '.join(map(str, targets)) or 'none'}"


def samples(batch: Batch, most: int | None = None) -> Iterator[Batch]:
    """The first samples of a batch as batches of one."""
    for at in range(min(size(batch), most or size(batch))):
        yield rows(batch, slice(at, at + 1))


def rows(batch: Batch, part: slice) -> Batch:
    """Some of the samples of a batch."""
    return tree_map(lambda leaf: leaf[part] if isinstance(leaf, Tensor) else leaf, batch)


def size(batch: Batch) -> int:
    """How many samples a batch holds."""
    return len(_tensors(batch)[0])


def run(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def weights(model: nn.Module) -> list[nn.Parameter]:
    """What inputs are multiplied by: parameters of two or more dimensions that have `weight` in their own name.

    That is how convolutions and linear, attention and recurrent layers call them, and elastic layers; of a parametrised weight, its
    originals. Positions, class tokens, layer scales, embeddings and norms are left out. In a model without any such name, all
    parameters of two or more dimensions count that are not of embeddings or norms.

    Raises:
        ValueError: there are none.
    """
    others = (nn.Embedding, nn.EmbeddingBag, *NORMS)
    left_out = {id(p) for part in model.modules() if isinstance(part, others) for p in part.parameters()}
    matrices = {
        name: p
        for name, p in model.named_parameters()
        if p.dim() > 1 and p.is_floating_point() and id(p) not in left_out
    }
    if not matrices:
        raise ValueError(
            f"a score needs weights of convolutions or linear layers, got none in {type(model).__name__}; "
            "give a network that has some"
        )
    return [p for name, p in matrices.items() if WEIGHT.search(name)] or list(matrices.values())


def gradients(scalar: Tensor, wanted: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """Derivatives of a scalar; zeros where it does not depend on a tensor."""
    if not scalar.requires_grad:
        return [torch.zeros_like(tensor) for tensor in wanted]
    found = torch.autograd.grad(scalar, wanted, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)]


def total(outputs: Any) -> Tensor:
    """The sum of all floating-point outputs."""
    parts = [leaf.sum() for leaf in tree_leaves(_plain(outputs)) if floating(leaf)]
    if not parts:
        raise ValueError(f"a model must return floating-point tensors, got {type(outputs).__name__}; wrap the model")
    return torch.stack(parts).sum()


def flat(outputs: Any) -> Tensor:
    """All floating-point outputs side by side, (samples, values)."""
    return torch.cat([leaf.flatten(1) for leaf in tree_leaves(_plain(outputs)) if floating(leaf)], dim=1)


def image_like(inputs: Any, score: str) -> Tensor:
    """The one floating-point input of scores that differentiate by it or put noise in its place.

    Raises:
        ValueError: the inputs are anything else.
    """
    leaves = _tensors(inputs)
    if len(leaves) != 1 or not floating(leaves[0]):
        raise ValueError(
            f"`{score}` needs one floating-point input, got {', '.join(str(leaf.dtype) for leaf in leaves) or 'none'}; "
            "use a score that does not look at the input, or wrap the model from its embeddings on"
        )
    return leaves[0]


def put(inputs: Any, value: Tensor) -> Any:
    """The same inputs with `value` in place of their one tensor."""
    return tree_map(lambda leaf: value if isinstance(leaf, Tensor) else leaf, inputs)


def without(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Let modules of these kinds return their input."""
    for part in model.modules():
        if isinstance(part, kinds):
            part.forward = _same


def _same(x: Tensor, *args: object, **kwargs: object) -> Tensor:
    return x


def _plain(outputs: Any) -> Any:
    """Outputs of Hugging Face are dictionaries that torch's tree functions may not know."""
    return dict(outputs) if isinstance(outputs, dict) else outputs


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(_plain(tree)) if isinstance(leaf, Tensor)]


def floating(leaf: object) -> bool:
    """Whether it is a floating-point tensor."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
