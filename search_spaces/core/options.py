"""Checks of what a user gives to the factory of a search space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_spaces.core.bounds import LARGEST_INPUT, MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES, MOST_LISTED
from search_spaces.core.naming import quoted, unknown_name

ImageSize = int | Sequence[int]
"""Height and width of images, in pixels: one number where they are the same, or the two of them."""


def check_images(in_channels: object, num_classes: object, image_size: object) -> tuple[int, int]:
    """Height and width of the images; ValueError unless these are integers that images and classes can have."""
    for name, number, least, most in (
        ("in_channels", in_channels, 1, MOST_CHANNELS),
        ("num_classes", num_classes, 2, MOST_CLASSES),
    ):
        if not isinstance(number, int) or not least <= number <= most:
            raise ValueError(f"`{name}` must be an integer of at least {least}; got {quoted(number)}; at most {most:,}")
    height, width = height_and_width(image_size)
    assert isinstance(in_channels, int)
    if in_channels * height * width > LARGEST_INPUT:
        raise ValueError(
            f"`image_size` must be of images of at most {LARGEST_INPUT:,} numbers, got {quoted(image_size)} of {in_channels} "
            "channels; resize them"
        )
    return height, width


def height_and_width(image_size: object) -> tuple[int, int]:
    """Height and width of images of `image_size`; ValueError unless it is an integer of at least 1, or two of them."""
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if (
        not isinstance(sides, (list, tuple))
        or len(sides) != 2
        or any(type(side) is not int or side < 1 for side in sides)
    ):
        raise ValueError(
            f"`image_size` must be an integer of at least 1, or two of them, height and width; got {quoted(image_size)}"
        )
    return sides[0], sides[1]


def image_size_of(height: int, width: int) -> int | list[int]:
    """Height and width as the options of a space have them: one number where they are the same."""
    return height if height == width else [height, width]


def switched_on(choices: str | Sequence[str], known: Sequence[str], given: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the choices that a space has.

    Args:
        choices: names, or one string of names joined by commas.
        known: what there is; the result keeps its order.
        given: options that belong to a choice, by the name `choice.option`; None where not given.

    Raises:
        ValueError: an unknown choice, a choice twice, none at all, or an option of a choice that is not switched on.
    """
    names = [name.strip() for name in choices.split(",")] if isinstance(choices, str) else list(choices)
    for name in names:
        if name not in known:
            raise unknown_name("choice of `choices`", name, known)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"`choices` needs at least one of {', '.join(known)}, and none twice; got {quoted(names)}")
    for path, value in given.items():
        choice, option = path.split(".")
        if value is not None and choice not in names:
            raise ValueError(f"`{option}` needs the choice {choice!r}; add it to `choices`, or leave `{option}` out")
    return tuple(name for name in known if name in names)


def widths(base: int, ratios: Sequence[float], where: str) -> tuple[int, ...]:
    """`base` channels times each ratio, rounded, in rising order; ValueError for nothing, for none left, and for two alike."""
    if len(ratios) > MOST_LISTED or not all(0 < ratio <= MOST_CHANNELS for ratio in ratios):
        raise ValueError(
            f"`width_ratios` must be at most {MOST_LISTED:,} numbers above 0, up to {MOST_CHANNELS:,}, got {quoted(ratios)}"
        )
    found = sorted(round(base * ratio) for ratio in ratios)
    if not found or found[0] < 1 or found[-1] > MOST_CHANNELS or len(set(found)) != len(found):
        raise ValueError(
            f"`width_ratios` must give different widths of at least 1, got {quoted(found)} for the {base} channels of {where}; at "
            f"most {MOST_CHANNELS:,}"
        )
    return tuple(found)


def integers(
    name: str, values: Sequence[int], least: int, most: int = MOST_CHANNELS, *, odd: bool = False
) -> tuple[int, ...]:
    """`values` in rising order; ValueError unless they are different integers from `least` to `most`, odd ones if so asked."""
    kind = "odd integers" if odd else "integers"
    fits = (
        0 < len(values) <= MOST_LISTED
        and all(type(value) is int and least <= value <= most and (value % 2 or not odd) for value in values)
        and len(set(values)) == len(values)
    )
    if not fits:
        raise ValueError(
            f"`{name}` must be different {kind} of at least {least}; got {quoted(list(values))}; at most {most:,}, and no more than "
            f"{MOST_LISTED:,} of them"
        )
    return tuple(sorted(values))


def usual_resolutions(image_size: int, least: int) -> tuple[int, ...]:
    """3/4, 7/8 and all of a side of `image_size` pixels, rounded down; of the smaller ones those that are at least `least`."""
    smaller = {image_size * 3 // 4, image_size * 7 // 8} - {image_size}
    return (*sorted(side for side in smaller if side >= least), image_size)


def stage_depths(depths: Sequence[int] | Sequence[Sequence[int]], stages: int) -> tuple[tuple[int, ...], ...]:
    """The numbers of blocks that each stage can have, from one list for all stages or a list for each.

    Raises:
        ValueError: a depth of zero, or another number of lists than stages.
    """
    each = [depths] * stages if all(isinstance(depth, int) for depth in depths) else list(depths)
    if len(each) != stages:
        raise ValueError(f"`depths` must be one list of depths or a list for each of {stages} stages, got {len(each)}")
    for stage, values in enumerate(each, start=1):
        if not isinstance(values, Sequence) or not values or any(type(d) is not int or d < 1 for d in values):
            raise ValueError(
                f"`depths` must give each stage at least 1 block, got {quoted(values)} for stage {stage}; a stage cannot be left out"
            )
    return tuple(integers("depths", values, 1, MOST_BLOCKS) for values in each)  # type: ignore[arg-type]


def plain(value: object) -> object:
    """`value` with lists in place of tuples, as JSON has them."""
    return [plain(item) for item in value] if isinstance(value, (list, tuple, range)) else value
