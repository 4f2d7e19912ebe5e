"""Short names for the architectures of spaces with many choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase, digits

from search_spaces.core.choices import Choice, Value
from search_spaces.core.naming import quoted
from search_spaces.core.numbering import Values, exists
from search_spaces.core.space import Labels

DIGITS = digits + ascii_lowercase


def code_labels(choices: Sequence[Choice]) -> Labels:
    """Labels of the positions of the values of the choices that exist, such as `02-1121`.

    A position is written in base 36, most often as one character, with as many as the largest of its choice needs. A dash stands
    wherever the part of the choices' names before the first dot changes.
    """
    lengths = {choice.name: len(written(choice.size - 1)) for choice in choices}
    positions = {
        choice.name: {choice.value(at): written(at).zfill(lengths[choice.name]) for at in range(choice.size)}
        for choice in choices
    }

    def write(values: Mapping[str, Value]) -> str:
        parts: dict[str, str] = {}
        for choice in choices:
            if choice.name in values:
                owner = choice.name.partition(".")[0] if "." in choice.name else ""
                parts[owner] = parts.get(owner, "") + positions[choice.name][values[choice.name]]
        return "-".join(parts.values())

    def read(text: str) -> Mapping[str, Value]:
        rest = text.replace("-", "")
        values: Values = {}
        for choice in choices:
            if exists(choice, values):
                code, rest = rest[: lengths[choice.name]], rest[lengths[choice.name] :]
                known = {code: value for value, code in positions[choice.name].items()}
                if code not in known:
                    raise ValueError(
                        f"a label must give choice {choice.name!r} the position of its value, 0 to {written(choice.size - 1)} "
                        f"({choice.allowed}); got {code!r} in {quoted(text)}"
                    )
                values[choice.name] = known[code]
        if rest:
            raise ValueError(
                f"a label must have one position per choice that exists, got {quoted(rest)} too much in {quoted(text)}"
            )
        return values

    return Labels(write, read)


def written(number: int) -> str:
    """`number` in base 36."""
    above, last = divmod(number, len(DIGITS))
    return (written(above) if above else "") + DIGITS[last]
