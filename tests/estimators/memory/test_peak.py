"""Peak memory: best orders against brute force, predictions against what the allocator gives out, MCUNetV2's figures."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import Node

from estimators import allocated_peak, peak_memory
from estimators.memory import ordering
from estimators.memory.ordering import Operation, best_order, given_order
from estimators.memory.peak import Watch, exported, memory_graph
from search_spaces import make_space


def random_graph(seed: int, count: int, overwriting: bool = True) -> tuple[list[Operation], list[int], frozenset[int]]:
    """One input, then operations that each read one to three earlier buffers and write one; the last buffers are kept."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, count + 1).tolist()
    operations = [
        Operation(
            str(at),
            frozenset(rng.choice(at + 1, size=min(at + 1, int(rng.integers(1, 4))), replace=False).tolist()),
            (at + 1,),
            overwriting and bool(rng.integers(2)),
        )
        for at in range(count)
    ]
    return operations, sizes, frozenset({count})


def by_hand(order: tuple[int, ...], operations: list[Operation], sizes: list[int], kept: frozenset[int]) -> int | None:
    """The peak of an order, told from scratch at each step; None if it cannot run."""
    written = {buffer for operation in operations for buffer in operation.writes}
    alive = set(range(len(sizes))) - written
    peak = sum(sizes[buffer] for buffer in alive)
    for step, at in enumerate(order):
        operation, later = operations[at], [operations[other] for other in order[step + 1 :]]
        if not operation.reads <= alive:
            return None
        needed = kept.union(*(other.reads for other in later))
        dying = [sizes[buffer] for buffer in operation.reads - needed]
        made = sum(sizes[buffer] for buffer in operation.writes)
        during = sum(sizes[buffer] for buffer in alive) + made
        peak = max(peak, during - (made if operation.overwrites and made <= max(dying, default=-1) else 0))
        alive = {b for b in alive | set(operation.writes) if b in needed or (b not in operation.reads and b in alive)}
    return peak


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6))
def test_the_best_order_is_that_of_brute_force(seed: int, count: int) -> None:
    graph = random_graph(seed, count)
    peaks = [by_hand(order, *graph) for order in permutations(range(count))]
    found = best_order(*graph)
    assert found.exact
    assert found.peak == min(peak for peak in peaks if peak is not None) == by_hand(found.order, *graph)
    assert given_order(*graph).peak == peaks[0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_beyond_the_exact_search_the_order_is_valid_and_no_worse_than_the_given(seed: int) -> None:
    graph = random_graph(seed, 12)
    exact = best_order(*graph)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ordering, "STATES", 1)
        found = best_order(*graph)
    assert exact.peak <= found.peak <= given_order(*graph).peak
    assert by_hand(found.order, *graph) == found.peak


def test_many_parallel_branches_are_still_answered() -> None:
    operations = [Operation("stem", frozenset({0}), (1,))]
    operations += [Operation(str(at), frozenset({1}), (at,)) for at in range(2, 32)]
    operations += [Operation("join", frozenset(range(2, 32)), (32,))]
    assert best_order(operations, [1] * 33, frozenset({32})).peak == 31


class Branches(nn.Module):
    """A wide branch and a narrow one; the code runs the narrow one first."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(4, 16, 1)
        self.wide = nn.Conv2d(4, 32, 1)
        self.down = nn.Conv2d(32, 2, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.narrow(x)
        return torch.cat([self.pool(narrow), self.down(self.wide(x))], 1)


def test_order_of_two_branches() -> None:
    found = peak_memory(Branches(), (4, 8, 8), in_place=False)
    assert found.peak_bytes == 4 * (256 + 2048 + 32)  # wide first: the input, the wide map and what becomes of it
    assert found.written_bytes == 4 * (256 + 256 + 2048)  # narrow first: what became of it is there as well
    assert found.exact
    assert found.operator == "conv2d_2 of down"


class Residual(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride, 1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 1),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(width, 2 * width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return x + self.out(torch.softmax(q @ k.transpose(-1, -2), -1) @ v)


NETWORKS = {
    "residual": (lambda: nn.Sequential(Residual(3, 1), Residual(6, 2)), (3, 9, 9)),
    "plain": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)),
        (3, 8, 8),
    ),
    "branches": (Branches, (4, 8, 8)),
    "attention": (Attention, (10, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_best_order_run_for_real_takes_what_was_predicted(name: str) -> None:
    make, shape = NETWORKS[name]
    module = make().eval()
    program = exported(module, shape)
    graph = memory_graph(program, None, in_place=False)
    kept = graph.outputs | graph.inputs
    schedule = best_order(graph.operations, graph.sizes, kept)
    assert run_in_order(program, [graph.nodes[at] for at in schedule.order], shape) == schedule.peak
    assert peak_memory(module, shape, in_place=False, keep_inputs=True).peak_bytes == schedule.peak


def run_in_order(program: torch.export.ExportedProgram, order: list[Node], shape: tuple[int, ...]) -> int:
    """Bytes of activations alive at most while the operators run in that order; views follow what they look at."""
    place = {node: at for at, node in enumerate(order)}
    nodes, rank = list(program.graph.nodes), {}
    for node in nodes:
        before = max((rank[used][0] for used in node.all_input_nodes), default=-1)
        rank[node] = (place.get(node, before), node not in place, nodes.index(node))
        if node.op == "output":
            rank[node] = (len(order), True, len(nodes))
    nodes.sort(key=rank.__getitem__)
    uses = {node: len(node.users) for node in nodes}
    state = {**program.state_dict, **program.constants}
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    values: dict[Node, object] = {}
    given = torch.zeros(1, *shape)
    with torch.no_grad(), Watch() as watch:
        for node in nodes:
            if node.op == "placeholder":
                values[node] = state[names[node.name]] if node.name in names else given
            elif node.op == "call_function":
                args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
                del args, kwargs
                for used in node.all_input_nodes:
                    uses[used] -= 1
                    if not uses[used]:
                        del values[used]
    return watch.peak + given.nbytes


@pytest.mark.parametrize("name", ["residual", "plain", "attention"])
def test_the_order_as_written_is_what_eager_torch_takes(name: str) -> None:
    make, shape = NETWORKS[name]
    module = make()
    assert peak_memory(module, shape, in_place=False, keep_inputs=True).written_bytes == allocated_peak(module, shape)


def test_a_search_spaces_network_against_the_allocator() -> None:
    space = make_space("resnet20-pooling")
    network = space.net.build(space.locals(space.parse("4-3-3")))
    found = peak_memory(network, space.net.input_shape, in_place=False, keep_inputs=True)
    real = allocated_peak(network, space.net.input_shape)
    assert found.exact
    assert found.peak_bytes == found.written_bytes  # a chain of residual blocks leaves nothing to choose
    assert (
        real == found.written_bytes + 4 * 16 * 32 * 32
    )  # Python's frames hold one map that no operator needs any more
    assert peak_memory(network, space.net.input_shape).peak_bytes < found.peak_bytes


def test_in_place_and_element_size() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert peak_memory(network, (3, 4, 4), in_place=False).peak_bytes == 4 * 16 * (8 + 8)
    assert peak_memory(network, (3, 4, 4)).peak_bytes == 4 * 16 * (3 + 8)
    assert peak_memory(network, (3, 4, 4), keep_inputs=True).peak_bytes == 4 * 16 * (3 + 8 + 2)
    assert peak_memory(network, (3, 4, 4), element_bytes=1).peak_bytes == 16 * (3 + 8)
    assert (
        peak_memory(network.half(), {"input": torch.zeros(2, 3, 4, 4, dtype=torch.half)}).peak_bytes == 2 * 2 * 16 * 11
    )


def test_the_module_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train()
    peak_memory(network, (3, 4, 4))
    allocated_peak(network, (3, 4, 4))
    assert network.training and network[1].training and int(network[1].num_batches_tracked) == 0


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_is_said() -> None:
    with pytest.raises(ValueError, match="cannot trace Sign: .*; give the shape of one sample"):
        peak_memory(Sign(), (3,))
    with pytest.raises(ValueError, match="cannot trace Conv2d"):
        peak_memory(nn.Conv2d(3, 8, 3), (4, 8, 8))
    with pytest.raises(ValueError, match="`element_bytes` must be positive, got 0; 1 is int8"):
        peak_memory(nn.Conv2d(3, 8, 3), (3, 8, 8), element_bytes=0)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 8, 1))
    predicted = peak_memory(network, (3, 256, 256), in_place=False, keep_inputs=True).written_bytes
    assert predicted <= allocated_peak(network, (3, 256, 256), "cuda") <= 1.5 * predicted + 2**26
