"""How far a network stretches a circle of inputs."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from estimators.zero_cost.working import NORMS, Batch, Loss, flat, image_like, put, rows, run, without


def as_vit(model: nn.Module, batch: Batch, loss: Loss, *, angles: int = 10) -> float:
    """Length distortion: Σ over angles of ‖dF/dθ‖ along the circle U (cos θ, sin θ), with all norms left out.

    U has two random orthonormal columns in the space of inputs. The weights are taken as they are, so average over networks built
    from several seeds (five in the reference). The batch only tells the shape of an input.

    Reference: Chen, Huang, Du, Song, Wang, Zhou, "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv:2202.11921.
    """
    image = image_like(batch[0], "as_vit")
    inputs = rows(batch, slice(1))[0]
    plane = torch.linalg.qr(torch.randn(math.prod(image.shape[1:]), 2, device=image.device)).Q
    return length_distortion(model, put(inputs, image[:1]), plane, angles)


def length_distortion(model: nn.Module, inputs: object, plane: Tensor, angles: int) -> float:
    """The score for a given plane, (values of an input, 2); its shape is that of the one tensor among `inputs`."""
    without(model, NORMS)
    shape = image_like(inputs, "as_vit").shape[1:]
    theta = torch.arange(angles, dtype=plane.dtype, device=plane.device) * (2 * math.pi / angles)
    circle = torch.stack([theta.cos(), theta.sin()], dim=1) @ plane.T
    tangent = torch.stack([-theta.sin(), theta.cos()], dim=1) @ plane.T
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own use of torch.jit.script
        moved = torch.func.jvp(
            lambda x: flat(run(model, put(inputs, x))), (circle.view(-1, *shape),), (tangent.view(-1, *shape),)
        )[1]
    return moved.norm(dim=1).sum().item()
