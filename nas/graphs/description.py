"""The form of a graph in a file: tensors by name, and operators that compute one value after the other."""

from __future__ import annotations

import base64
import math
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, Field
from torch import Tensor

from search_spaces.core import LARGEST_INPUT, MOST_DIMENSIONS, MOST_OPERATORS, parse, quoted, unknown_name

GRAPH = "graph.json"
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
        torch.bool,
    )
}  # fmt: skip
FORMATS = {
    str(kind).removeprefix("torch."): kind
    for kind in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}

Size = Annotated[int, Field(ge=1, le=LARGEST_INPUT)]
Shape = Annotated[list[Size], Field(max_length=MOST_DIMENSIONS)]


def _known(name: str) -> str:
    if name not in DTYPES:
        raise unknown_name("type of a tensor", name, DTYPES)
    return name


Dtype = Annotated[str, AfterValidator(_known)]


class Described(BaseModel, extra="forbid", strict=True):
    """Part of a graph in a file."""


class Held(Described):
    """A tensor of the network that its weights file holds."""

    kind: Literal["parameter", "buffer"]
    shape: Shape
    dtype: Dtype


class Constant(Described):
    """A tensor that the network's code makes: its bytes, little-endian, in base64."""

    shape: Shape
    dtype: Dtype
    data: str


class Step(Described):
    """An operator and its arguments by name; those that are not there have its defaults.

    A value that JSON has no word for is a mapping: `{"value": 3}` is what step 3 computes, and 0 the network's input;
    `{"tensor": "head.weight"}`, `{"dtype": "int64"}`, `{"memory_format": "contiguous_format"}` and `{"float": "-inf"}` say themselves.
    """

    operator: str
    arguments: dict[str, Any]


class Given(Described):
    """The input: of which shape without the batch, which may have any size."""

    shape: Shape
    dtype: Dtype


class Description(Described):
    """A network as data.

    Attributes:
        version: of the form.
        input: what it takes.
        tensors: those of the weights file, by name.
        constants: others, by name.
        steps: in order, counted from 1; each uses what earlier ones computed.
        output: number of the step that computes the output.
    """

    version: Literal[1]
    input: Given
    tensors: Annotated[dict[str, Held], Field(max_length=MOST_OPERATORS)]
    constants: Annotated[dict[str, Constant], Field(max_length=MOST_OPERATORS)]
    steps: Annotated[list[Step], Field(min_length=1, max_length=MOST_OPERATORS)]
    output: Annotated[int, Field(ge=1)]


def parse_graph(data: object) -> Description:
    """Check the form of a graph; nothing is made of it.

    Raises:
        ValueError: it has another form, or numbers steps that it does not have.
    """
    found = parse(Description, data)
    if found.output > len(found.steps):
        raise ValueError(f"`output` must be one of {len(found.steps):,} steps, got {found.output:,}")
    return found


def packed(tensor: Tensor, dtype: str) -> Constant:
    """A tensor of a named type as text."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data = bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
    return Constant(shape=list(tensor.shape), dtype=dtype, data=base64.b64encode(data).decode())


def unpacked(constant: Constant) -> Tensor:
    """The tensor that text stands for.

    Raises:
        ValueError: it has not as many bytes as its shape and type take.
    """
    dtype: torch.dtype = DTYPES[constant.dtype]
    try:
        data = base64.b64decode(constant.data, validate=True)
    except ValueError:
        raise ValueError(f"`data` of a constant must be base64, got {quoted(constant.data)}") from None
    wanted = math.prod(constant.shape) * dtype.itemsize
    if len(data) != wanted:
        raise ValueError(f"`data` of a constant must have {wanted:,} bytes for its shape and type, got {len(data):,}")
    if not data:
        return torch.zeros(constant.shape, dtype=dtype)
    numbers = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return (numbers != 0 if dtype is torch.bool else numbers.view(dtype)).reshape(constant.shape)
