"""The card of an exported subnet: what it is, where it comes from, what it can do, and how it is loaded, in Markdown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from nas.report.format import front_table
from nas.report.inputs import as_code
from nas.report.markdown import plain, table
from nas.report.page import examples, searched
from nas.study import Study
from search_spaces import Architecture
from search_spaces.core import quoted

CARD = "README.md"
MATTER = "---\nlibrary_name: nas-toolkit\ntags:\n- neural-architecture-search\n- pytorch\n---"
"""Words for model hubs; they are the same in every card."""
WEIGHTS = {
    "alone": "of the network trained alone",
    "trained model": "of the trained model, repaired layer by layer on training examples where there are such; the search's figures "
    "are from before that",
    "supernet": "of the supernet, with batch normalisation calibrated on training examples",
}
PACKAGES = ("python", "nas-toolkit", "torch")


def model_card(
    study: Study, arch: Architecture, described: Mapping[str, Any], example: Any, folder: Path, loads: str
) -> str:
    """The card.

    Args:
        study: the run that the subnet is of.
        arch: its architecture.
        described: what `architecture.json` says.
        example: inputs, batch first.
        folder: with the subnet's other files.
        loads: the Python expression that loads it from its folder.
    """
    return (
        "\n\n".join(
            [
                MATTER,
                f"# {plain(described['label'])}",
                f"A subnet of the search space {plain(described['space']['name'])}, found by nas\\-toolkit.",
                *(f"Note: {plain(note)}." for note in described["notes"]),
                "## What it is",
                table(("what", "value"), _what(described)),
                "## Figures",
                _figures(study, arch),
                "## How to load it",
                _usage(described, example, loads),
                "## Where it comes from",
                table(("what", "value"), _origin(study)),
                "## Files",
                table(("file", "bytes", "sha256"), _files(folder)),
                "## License",
                "To be added by whoever publishes it.",
            ]
        )
        + "\n"
    )


def _what(described: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "space", described["space"]["name"]
    for name, value in described["space"]["options"].items():
        yield f"option {name}", quoted(value)
    for name, value in described["choices"].items():
        yield f"choice {name}", quoted(value)
    yield "weights", WEIGHTS.get(described["weights"], described["weights"])


def _figures(study: Study, arch: Architecture) -> str:
    """What the run knows of an architecture, and on which examples."""
    ranked, kind = study.ranked, examples(study)
    rows = ranked[ranked["architecture"] == arch.key] if len(ranked) else ranked
    if rows.empty:
        return "The search did not try this architecture."
    if (measured := study.latency.get(arch.key)) is not None:
        rows = rows.assign(**{name: value for name, value in measured.items() if name.startswith("latency_")})
    names = [objective.name for objective in study.objectives]
    shown = front_table(rows, searched(study), names, study.metrics)
    seeds = len(study.alone[study.alone["architecture"] == arch.key])
    of_seeds = f"mean and standard deviation of {seeds} trainings with different seeds" if seeds > 1 else "one training"
    where = {
        " alone": f"test {kind}, {of_seeds}",
        f" {searched(study)}": f"validation {kind}, as the search saw it, seed {study.config.seed}",
        "macs": f"of one of the {kind}", "latency": f"of one of the {kind}, median and quartiles",
    }  # fmt: skip
    return table(
        ("figure", "value", "on"),
        [
            (name, cell, next((said for ending, said in where.items() if name.endswith(ending)), ""))
            for name, cell in zip(shown.columns[1:], shown.rows[0][1:], strict=True)
        ],
    )


def _usage(described: Mapping[str, Any], example: Any, loads: str) -> str:
    """Python that loads the network in its folder and runs it, and what it takes."""
    inputs, call = as_code(example)
    lines = ["import nas", "import torch", "", f"network = {loads}", f"inputs = {inputs}"]
    taken = [x for x in tree_leaves(example) if isinstance(x, Tensor)]
    shapes = [
        f"{str(x.dtype).removeprefix('torch.')} and shape ({', '.join(['N', *map(str, x.shape[1:])])})" for x in taken
    ]
    said = [f"It takes tensors of {'; '.join(shapes)}, with any N."]
    mean, std = (described.get("input", {}).get(part) for part in ("mean", "std"))
    if mean and std and isinstance(example, Tensor) and example.ndim == 4:
        lines += [
            f"{part} = torch.tensor({numbers})[:, None, None]" for part, numbers in (("mean", mean), ("std", std))
        ]
        lines.append("inputs = (inputs - mean) / std")
        said.append("Pixels are in [0, 1], and normalised by the mean and std of each channel.")
    lines += ["with torch.inference_mode():", f"    outputs = network({call})"]
    if classes := described.get("classes"):
        named = ", ".join(map(plain, classes))
        said.append(f"Outputs are logits of {len(classes)} classes, in this order: {named}.")
    return "\n\n".join(["```python\n" + "\n".join(lines) + "\n```", *said])


def _origin(study: Study) -> Iterator[tuple[str, object]]:
    record = study.record
    yield "run", study.folder.name
    yield "strategy and seed", f"{study.config.strategy}, {study.config.seed}"
    if record["data"] is not None:
        yield "task or data", record["data"]["name"]
        yield "its fingerprint", record["data"]["fingerprint"]
    yield "fingerprint of the space", record["space"]["fingerprint"]
    session = record["sessions"][-1] if record["sessions"] else {}
    versions = session.get("versions")
    if isinstance(versions, dict):
        yield "versions", ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)
    hardware = session.get("hardware")
    if isinstance(hardware, dict):
        yield "hardware", ", ".join(str(hardware[part]) for part in ("processor", "gpu") if hardware.get(part))
    yield "commit of the toolkit", session.get("commit") or "an installed package"


def _files(folder: Path) -> Iterator[tuple[str, str, str]]:
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            yield path.name, f"{path.stat().st_size:,}", hashlib.file_digest(file, "sha256").hexdigest()
