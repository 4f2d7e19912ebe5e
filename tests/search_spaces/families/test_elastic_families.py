"""The elastic families and Channel-Bench-Macro: subnets are slices to the last bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from estimators import CostModel
from nas.tasks import Task
from nas.training.measure import calibrate_
from search_spaces import SearchSpace, Supernet, largest, make_space, smallest
from search_spaces.core.options import usual_resolutions
from search_spaces.families.mobilenet_elastic import CHOICES as MOBILENET_CHOICES
from search_spaces.families.resnet_elastic import CHOICES as RESNET_CHOICES
from search_spaces.families.resnet_elastic import FAMILIES
from search_spaces.layers.elastic_conv import ElasticConv2d
from search_spaces.layers.elastic_head import HEAD_OPERATORS
from search_spaces.layers.sorting import sort_supernet_
from search_spaces.pooling import make_global_pooling
from tests.conformance import check_space
from tests.subnets import check_slice, classes, images, stirred

ALL = "width,depth,groups,kernel,pooling,resolution,head"
THIN = {"width_ratios": (0.0625, 0.125), "num_classes": 5, "stem": "small"}
SPACES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "resnet20": ("resnet-elastic", {"image_size": 8}),
    "resnet20-all": (
        "resnet-elastic",
        {"image_size": 12, "choices": ALL, "kernels": (1, 3, 5), "kernel_transforms": True},
    ),
    "resnet20-groups": (
        "resnet-elastic",
        {"image_size": 8, "choices": "groups,width", "groups": (1, 2, 4), "width_ratios": (0.25, 0.5, 1)},
    ),
    "resnet56-pooling": (
        "resnet-elastic",
        {"depth": 56, "image_size": 8, "choices": "pooling,depth", "depths": (1, 4)},
    ),
    "resnet20-learned-pooling": (
        "resnet-elastic",
        {"image_size": 9, "choices": "width,pooling", "operators": ("conv", "tree", "adapool", "ggem")},
    ),
    "resnet18-all": (
        "resnet-elastic",
        {
            "depth": 18,
            "image_size": 12,
            "choices": ALL,
            "group_sizes": (2, "dense"),
            "head_operators": HEAD_OPERATORS,
            **THIN,
        },
    ),
    "resnet50-all": (
        "resnet-elastic",
        {"depth": 50, "image_size": 12, "choices": ALL, "group_sizes": (1, 2, "dense"), "depths": (1, 2), **THIN},
    ),
    "resnet50-large-stem": (
        "resnet-elastic",
        {"depth": 50, "image_size": 33, "choices": "width,depth", "width_ratios": (0.125, 0.0625), "depths": (1, 2)},
    ),
    "mobilenet-all": (
        "mobilenet-elastic",
        {
            "image_size": 12,
            "choices": "kernel,expansion,depth,width,resolution,se,head",
            "kernel_transforms": True,
            "width_ratios": (0.125, 0.25),
            "depths": (1, 2),
        },
    ),
    "mobilenet-large": (
        "mobilenet-elastic",
        {"image_size": 64, "stem": "large", "choices": "depth", "depths": ((1, 2), (1,), (1,), (2,), (1,))},
    ),
    "channel-bench": ("channel-bench-macro-resnet", {"image_size": 7}),
}


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    name, options = SPACES[request.param]
    return make_space(name, **options)


# --- invariants ---


def test_random_subnets_are_slices_to_the_last_bit(space: SearchSpace) -> None:
    supernet, rng = stirred(space), np.random.default_rng(0)
    for arch in (smallest(space), largest(space), *(space.sample(rng) for _ in range(2))):
        check_slice(space, supernet, arch)


def test_the_smallest_and_largest_are_the_cheapest_and_dearest(space: SearchSpace) -> None:
    model, rng = CostModel(space), np.random.default_rng(2)
    low, high = model.cost(smallest(space)).macs, model.cost(largest(space)).macs
    assert all(low <= model.cost(space.sample(rng)).macs <= high for _ in range(3)) and low < high
    space.check(smallest(space))
    space.check(largest(space))


def test_labels_and_arrays_read_back(space: SearchSpace) -> None:
    rng = np.random.default_rng(3)
    archs = [space.sample(rng) for _ in range(30)]
    assert [space.parse(space.label(arch)) for arch in archs] == archs
    assert space.decode(space.encode(archs)) == archs
    assert len({space.label(arch) for arch in archs}) == len(set(archs))
    assert all(len(space.label(arch)) < 120 for arch in archs)
    a, b = archs[:2]
    for child in (space.mutate(a, rng), space.crossover(a, b, rng)):
        space.check(child)
    assert space.size == space.raw_size > 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SPACES)
def test_a_hundred_subnets_are_slices_to_the_last_bit(name: str) -> None:
    space, rng = make_space(SPACES[name][0], **SPACES[name][1]), np.random.default_rng(5)
    supernet = stirred(space)
    for _ in range(100):
        check_slice(space, supernet, space.sample(rng))


@pytest.mark.parametrize("name", ["resnet20-all", "mobilenet-all"])
def test_shared_prefixes_predict_as_each_subnet_calibrated_alone(name: str, task: Task) -> None:
    kind, options = SPACES[name]
    space = make_space(
        kind, **{**options, "in_channels": 1, "image_size": 8, "num_classes": 10, "resolutions": (8, 10)}
    )
    supernet, rng = stirred(space), np.random.default_rng(6)
    parents = [space.sample(rng) for _ in range(3)]
    archs = [*parents, *(space.mutate(parent, rng) for parent in parents)]
    examples = task.validation
    found = classes(supernet, [space.locals(a) for a in archs], examples, batch_size=50, calibration=task.train)
    for row, arch in enumerate(archs):
        alone = calibrate_(supernet.extract(space.locals(arch)), task.train, batch_size=50)
        batches = np.array_split(np.arange(len(examples)), -(-len(examples) // 50))
        with torch.inference_mode():
            logits = [alone(next(examples.take(torch.from_numpy(b)).batches(50)).inputs) for b in batches]
        np.testing.assert_array_equal(found[row], torch.cat(logits).argmax(1).numpy())
    assert len({tuple(row) for row in found.tolist()}) > 1


def test_sorting_channels_keeps_the_largest_subnet() -> None:
    for name in ("resnet20", "resnet50-large-stem", "mobilenet-all", "channel-bench"):
        kind, options = SPACES[name]
        space = make_space(kind, **options)
        supernet = stirred(space).eval()
        wide, narrow = space.locals(largest(space)), space.locals(smallest(space))
        x, before = images(space), {}
        with torch.no_grad():
            before = supernet(x, wide), supernet(x, narrow)
            sort_supernet_(supernet)
            after = supernet(x, wide), supernet(x, narrow)
        torch.testing.assert_close(after[0], before[0], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(after[1], before[1], rtol=1e-3, atol=1e-4)


# --- resnet-elastic ---


def test_with_widths_at_their_largest_it_is_the_usual_resnet() -> None:
    model = CostModel(space := make_space("resnet-elastic"))
    assert model.cost(largest(space)).macs == 40_813_184
    space = make_space("resnet-elastic", depth=50, image_size=224, num_classes=1000)
    assert CostModel(space).cost(largest(space)).params == 25_557_032
    space = make_space("resnet-elastic", depth=18, image_size=224, num_classes=1000)
    assert CostModel(space).cost(largest(space)).params == 11_689_512


def test_each_choice_is_switched_on_alone() -> None:
    owners = {
        "width": ".width .inner",
        "depth": ".depth",
        "groups": ".group_size",
        "kernel": ".kernel",
        "pooling": "pools operator",
        "resolution": "resolution",
        "head": "head.pooling",
    }
    for choice, ends in owners.items():
        space = make_space("resnet-elastic", choices=choice)
        assert space.choices and all(c.name.endswith(tuple(ends.split())) for c in space.choices)
        assert space.options["choices"] == [choice]
        assert make_space("resnet-elastic", choices=[choice]).fingerprint == space.fingerprint


@pytest.mark.parametrize("choice", RESNET_CHOICES)
@pytest.mark.parametrize("depth", FAMILIES)
def test_each_choice_serves_every_family_of_resnets_at_its_defaults(depth: int, choice: str) -> None:
    space = make_space("resnet-elastic", depth=depth, choices=choice)
    assert space.sample(np.random.default_rng(0)) and all(
        space.locals(arch) for arch in (smallest(space), largest(space))
    )


@pytest.mark.parametrize("image_size", [8, 9, 16, 32, 95, 96, 224])
@pytest.mark.parametrize("choice", MOBILENET_CHOICES)
def test_each_choice_of_mobilenets_serves_any_image_that_they_take(choice: str, image_size: int) -> None:
    assert make_space("mobilenet-elastic", choices=choice, image_size=image_size).raw_size > 0


@given(st.integers(1, 300), st.integers(1, 300))
def test_usual_resolutions_are_what_can_be_built_and_end_with_the_whole_image(image_size: int, least: int) -> None:
    *smaller, whole = usual_resolutions(image_size, least)
    assert whole == image_size and smaller == sorted(set(smaller))
    assert set(smaller) == {side for side in (image_size * 3 // 4, image_size * 7 // 8) if least <= side < whole}


def test_blocks_left_out_have_no_choices() -> None:
    space = make_space("resnet-elastic", choices="width,depth,kernel,groups", kernels=(1, 3))
    arch = smallest(space)
    assert not any("block2" in name for name in arch)
    assert "stage1.block1.conv1.group_size" not in arch and arch["stage1.block1.kernel"] == 1
    names = [name for name, _ in space.net.build(space.locals(arch)).named_parameters()]
    assert not any("block2" in name for name in names)


def test_placements_of_pooling_are_those_of_the_pooling_space() -> None:
    space = make_space("resnet-elastic", choices="pooling", operators=("max",))
    check_space(space)
    known = make_space("resnet20-pooling", operators=("max",), bn="affine")
    archs = list(space.enumerate())
    assert space.size == 36 and [dict(a) for a in archs] == [dict(a) for a in known.enumerate()]
    ours, theirs = CostModel(space).batch(space.encode(archs)), CostModel(known).batch(space.encode(archs))
    assert (ours["macs"] == theirs["macs"]).all() and (ours["params"] == theirs["params"]).all()


@pytest.mark.parametrize(("name", "usual"), [("resnet-elastic", 3), ("mobilenet-elastic", 4)])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_smaller_depth_is_the_first_blocks_of_a_larger_one(name: str, usual: int, depth: int) -> None:
    space = make_space(name, choices="depth", depths=tuple(range(1, usual + 1)), image_size=8)
    supernet, x = stirred(space).eval(), images(space)
    left_out = tuple(f"block{number}" for number in range(depth + 1, usual + 1))
    with torch.no_grad():
        for (block, module), local in zip(supernet.blocks.items(), space.locals(largest(space)), strict=True):
            x = x if block.endswith(left_out) else module(x, local)
        shallow = space.architecture({choice.name: depth for choice in space.choices})
        assert torch.equal(supernet(images(space), space.locals(shallow)), x)


def test_a_constant_group_size_keeps_the_fan_in() -> None:
    space = make_space("resnet-elastic", depth=50, choices="width,groups", group_sizes=(8, 16), image_size=32)
    rng = np.random.default_rng(0)
    for _ in range(3):
        arch = space.sample(rng)
        net = space.net.build(space.locals(arch))
        for name, module in net.named_modules():
            if name.endswith("convs.1") and isinstance(module, nn.Conv2d):
                size = arch[name.split(".")[0].replace("_", ".") + ".conv2.group_size"]
                assert module.weight.shape[1] == size == module.in_channels // module.groups


def test_kernel_transforms_are_weights_of_the_supernet_alone() -> None:
    space = make_space("resnet-elastic", choices="kernel", kernels=(3, 5), kernel_transforms=True)
    supernet = Supernet(space.net)
    layers = [m for m in supernet.modules() if isinstance(m, ElasticConv2d) and m.transforms]
    assert len(layers) == 18
    arch = smallest(space)
    layers[0].transforms["3"].data.mul_(2)
    first = supernet.extract(space.locals(arch))[1].convs[0].weight  # type: ignore[union-attr, index]
    torch.testing.assert_close(first, 2 * layers[0].weight[..., 1:4, 1:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 19}, "`depth` must be one of 20, 32, 44, 56, 110, 18, 34, 50, 101, 152; got 19"),
        ({"choices": "width,dept"}, "no choice of `choices` is named 'dept'; did you mean depth"),
        ({"choices": ["width", "width"]}, "`choices` needs at least one of width, depth.* and none twice"),
        ({"choices": []}, "`choices` needs at least one of width, depth.* and none twice"),
        ({"groups": (2,)}, "`groups` needs the choice 'groups'; add it to `choices`, or leave `groups` out"),
        ({"choices": "groups", "groups": (2,), "group_sizes": (4,)}, "exclude each other; give one"),
        ({"depths": (0, 1)}, r"`depths` must give each stage at least 1 block, got \(0, 1\) for stage 1; a stage cannot"),
        ({"depths": ((1,), (1, 0), (2,))}, r"at least 1 block, got \(1, 0\) for stage 2"),
        ({"depths": ((1,), (1,))}, "a list for each of 3 stages, got 2"),
        ({"widths": (8, 16)}, r"`widths` must be positive integers, one for each of 3 stages; got \[8, 16\]"),
        ({"widths": (8, 16, 0)}, r"`widths` must be positive integers, one for each of 3 stages; got \[8, 16, 0\]"),
        ({"width_ratios": (0.01, 1)}, r"different widths of at least 1, got \[0, 16\] for the 16 channels of stage 1"),
        ({"choices": "kernel", "kernels": (3, 4)}, r"`kernels` must be different odd integers of at least 1; got \[3, 4\]"),
        ({"stem": "tiny"}, "`stem` must be small or large; got 'tiny'"),
        ({"image_size": 3}, "`image_size` must be at least 4 for 2 poolings, got 3"),
        ({"choices": "resolution", "resolutions": (2, 8)}, "`image_size` must be at least 4 for 2 poolings, got 2"),
        (
            {"choices": "width,pooling", "operators": ("ggem",), "width_ratios": (0.625, 1)},
            "`groups` must divide `channels`, got groups=4, channels=10; use 1, 2, 5, 10",
        ),
        ({"head_operators": ("gem",)}, "`head_operators` needs the choice 'head'; .* or leave `head_operators` out"),
        ({"choices": "head", "head_operators": ("avg", "gsp")}, r"among avg, gem, ggem, simpool, .* got \['avg', 'gsp'\]"),
        ({"choices": "head", "head_operators": ("gem", "gem")}, r"at least one and none twice; got \['gem', 'gem'\]"),
        (
            {"choices": "head,width", "head_operators": ("ggem",), "width_ratios": (0.65625, 1)},
            "`groups` must divide `channels`, got groups=4, channels=42; use 1, 2, 3, 6",
        ),
        ({"choices": "pooling", "operators": ("median",)}, "`operators` must be among .*; got 'median'"),
        (
            {"choices": "width,groups", "width_ratios": (0.5, 0.75, 1), "group_sizes": (8,)},
            "stage 1, block 1, conv1: groups of 8 channels must divide the input width, got 12; "
            "widths that work: 8, 16, 24.*; change `width_ratios` or `group_sizes`",
        ),
        (
            {"choices": "width,groups", "width_ratios": (0.5, 0.75, 1), "groups": (1, 8)},
            "8 groups must divide the output width, got 12; widths that work: 8, 16, 24.*; change `width_ratios` or `groups`",
        ),
        ({"choices": "groups", "group_sizes": (16, "dense")}, "no two groupings may mean the same"),
    ],
)  # fmt: skip
def test_bad_options_of_resnets_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_space("resnet-elastic", **options)


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_slices_of_any_selection_of_choices(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(ALL.split(",")), min_size=1, unique=True))
    options = {"depths": (1, 2)} if "depth" in names else {}
    space = make_space("resnet-elastic", choices=names, image_size=data.draw(st.integers(8, 12)), **options)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    arch = space.sample(rng)
    check_slice(space, Supernet(space.net), arch)
    assert space.architecture(dict(arch)) == arch


# --- heads ---


@pytest.mark.parametrize("name", ["resnet-elastic", "mobilenet-elastic"])
def test_each_head_pools_as_its_operator_does_with_the_weights_of_the_first_channels(name: str) -> None:
    space = make_space(name, choices="head,width", head_operators=HEAD_OPERATORS, image_size=16)
    supernet, rng = stirred(space).eval(), np.random.default_rng(0)
    assert [(c.name, c.kind) for c in space.choices][-1] == ("head.pooling", "head")
    for operator in HEAD_OPERATORS:
        arch = space.architecture({**dict(space.sample(rng)), "head.pooling": operator})
        *body, head = supernet.extract(space.locals(arch))
        features = nn.Sequential(*body)(images(space))
        pooling = make_global_pooling(operator, features.shape[1])
        whole = supernet.blocks["head"].body.poolings[operator].state_dict()  # type: ignore[union-attr,operator]
        first = {key: whole[key][tuple(map(slice, value.shape))] for key, value in pooling.state_dict().items()}
        pooling.load_state_dict(first)
        assert list(head.poolings) == [operator] and type(head.poolings[operator]) is type(pooling)  # type: ignore[arg-type,index]
        with torch.no_grad():
            assert torch.equal(head(features), head.classifier(pooling(features)))  # type: ignore[operator]


# --- mobilenet-elastic ---


def test_configurations_of_mobilenets_are_counted() -> None:
    each = 9**2 + 9**3 + 9**4
    assert make_space("mobilenet-elastic").size == each**5 == 7371**5
    space = make_space("mobilenet-elastic", choices="kernel,expansion,depth,width,resolution,se", depths=(1,))
    assert space.size == (3 * 3 * 2 * 3) ** 5 * 3


def test_squeeze_excitation_is_chosen_by_block() -> None:
    space = make_space("mobilenet-elastic", choices="se", image_size=16)
    net = space.net.build(space.locals(space.architecture({**dict(smallest(space)), "stage2.block3.se": 1})))
    convs = [name for name, m in net.named_modules() if ".squeeze." in name and isinstance(m, nn.Conv2d)]
    assert convs == ["stage2_block3.squeeze.reduce", "stage2_block3.squeeze.expand"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": "groups"}, "no choice of `choices` is named 'groups'"),
        ({"width_ratios": (1,)}, "`width_ratios` needs the choice 'width'"),
        ({"depths": (0, 4)}, r"at least 1 block, got \(0, 4\) for stage 1"),
        ({"expansions": (1, 6)}, r"`expansions` must be different integers of at least 2; got \[1, 6\]"),
        ({"image_size": 7}, "`image_size` must be at least 8 for 3 poolings, got 7"),
        ({"image_size": 31, "stem": "large"}, "`image_size` must be at least 32 for 5 poolings, got 31"),
        ({"stem": 3}, "`stem` must be small or large; got 3"),
    ],
)
def test_bad_options_of_mobilenets_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_space("mobilenet-elastic", **options)


# --- channel-bench-macro-resnet ---


def test_labels_of_channel_bench_are_digits() -> None:
    space = make_space("channel-bench-macro-resnet")
    arch = space.parse("1234123")
    assert list(arch.values()) == [64, 128, 192, 512, 128, 256, 384] and space.label(arch) == "1234123"
    for text in ("123412", "12341234", "0234123", "123412a"):
        with pytest.raises(ValueError, match=f"a label must be 7 digits of 1 to 4, as in 4444444; got '{text}'"):
            space.parse(text)


# --- architectures of another space ---


def test_architectures_of_another_space_are_refused() -> None:
    space, other = make_space("resnet-elastic"), make_space("mobilenet-elastic")
    arch = smallest(other)
    for use in (space.check, space.locals, CostModel(space).cost):
        with pytest.raises(ValueError, match="'resnet-elastic', got one of 'mobilenet-elastic'"):
            use(arch)  # type: ignore[operator]
    deeper = make_space("resnet-elastic", depth=56)
    with pytest.raises(ValueError, match="no choice of 'resnet-elastic' is named 'stage1.block4.inner'"):
        space.check(smallest(deeper))


@pytest.mark.parametrize("choices", ["width", "depth", "groups", "kernel", "pooling", "width,depth", "depth,pooling"])
def test_an_architecture_made_with_other_options_is_refused_unless_it_is_one_of_this_space_too(choices: str) -> None:
    spaces = [make_space("resnet-elastic", depth=depth, choices=choices, image_size=8) for depth in (20, 32, 56)]
    spaces.append(make_space("resnet-elastic", choices="kernel,pooling", operators=["max"], image_size=8))
    rng, refused = np.random.default_rng(0), 0
    for space, other in permutations(spaces, 2):
        for arch in [other.sample(rng) for _ in range(10)]:
            try:
                space.check(arch)
            except ValueError as error:
                refused += 1
                for use in (space.locals, CostModel(space).cost, space.codes):
                    with pytest.raises(ValueError, match=re.escape(str(error))):
                        use(arch)  # type: ignore[operator]
            else:
                assert space.decode(space.encode([arch])) == [arch]
    assert refused > 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a label must give choice 'stage1.width' the position of its value, 0 to 2 \(one of 8, 12, 16\); got ''"),
        ("3", "got '3' in '3'"),
        ("0000-0000-000", "a label must have one position per choice"),
    ],
)
def test_labels_of_elastic_spaces_are_checked(text: str, message: str) -> None:
    space = make_space("resnet-elastic")
    assert space.label(smallest(space)) == "000-000-000"
    with pytest.raises(ValueError, match=message):
        space.parse(text)
