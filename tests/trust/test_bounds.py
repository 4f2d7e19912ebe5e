"""What files and options ask for is refused before it is made: in a process that may take half a gigabyte more than it has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces.core import quoted

ROOT = Path(__file__).parents[2]
SPARE = 512 * 2**20
"""Bytes that a refusal may take, beside what the libraries take."""
LIMITED = f"""
import json, resource, sys
from pathlib import Path
import torch
import nas, pruners
from estimators import read_device
from estimators.latency import load_table
from nas.pruning import pruned_space, read_prune_config
from nas.pruning.inputs import example_inputs
from nas.runtime import yaml_values
from nas.study import build_space, read_config
from search_spaces import make_space
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {SPARE}, taken + {SPARE}))
said = []
for file, call in json.loads(sys.argv[1]):
    path = Path(file)
    try:
        eval(call)
        said.append("nothing")
    except ValueError as error:
        said.append(str(error))
    except Exception as error:
        said.append(repr(error)[:500])
print(json.dumps(said))
"""
LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
NESTED = "[" * 50_000 + "]" * 50_000
INPUT = {"shape": [2**26], "dtype": "float64"}
PLAN = {
    "fingerprint": "0" * 16,
    "removed": {},
    "sizes": {},
    "form": "module",
    "inputs": {"args": [INPUT] * 100, "kwargs": {}},
}
EXPORT = {"space": {"name": "resnet20-pooling", "options": {}}, "choices": {"pools": [1, 2]}}
WIDE = {"depth": 50, "choices": ["depth"], "widths": [65_536] * 4}


def export(folder: Path, described: object) -> None:
    from safetensors.torch import save_file
    from torch import zeros

    (folder / "architecture.json").write_text(json.dumps(described) if isinstance(described, dict) else str(described))
    save_file({"x": zeros(1)}, folder / "model.safetensors")


def large(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**40)


FILES = {
    "laughs": ("run.yaml", LAUGHS, "read_config(path)", "100,000 values with those of its aliases"),
    "laughs in a prune.yaml": ("prune.yaml", LAUGHS, "read_prune_config(path)", "100,000 values with those"),
    "laughs in a device": ("device.yaml", LAUGHS, "read_device(path)", "100,000 values with those of its aliases"),
    "an alias in itself": ("run.yaml", "a: &a [*a]", "read_config(path)", r"an alias \*a inside its own anchor"),
    "a long number": ("run.yaml", "a: " + ":".join(["1"] * 400_000), "read_config(path)", "100,000 characters in a val"),
    "nested YAML": ("run.yaml", "a: " + NESTED, "read_config(path)", "at most 100 levels of lists and mappings"),
    "nested JSON": ("table.json", NESTED, "load_table(path, make_space('resnet20-pooling'))", "at most 100 levels"),
    "many values": ("table.json", "[" + "[]," * 5_000_000 + "[]]", "load_table(path, None)", "at most 4,000,000 values"),
    "inputs of a plan": ("plan.json", json.dumps(PLAN), "pruners.load(path.parent, torch.nn.Identity())", "268,435,456 num"),
    "nested plan": ("plan.json", NESTED, "pruners.load(path.parent, torch.nn.Identity())", "a plan must be JSON"),
    "huge YAML": ("run.yaml", None, "read_config(path)", "must have at most 1,048,576 bytes, got 1,099,511,627,776"),
    "huge plan": ("plan.json", None, "pruners.load(path.parent, torch.nn.Identity())", "at most 67,108,864 bytes"),
    "huge device": ("device.yaml", None, "read_device(path)", "must have at most 1,048,576 bytes"),
    "huge table": ("table.json", None, "load_table(path, None)", "must have at most 67,108,864 bytes"),
    "classes of an export": (
        "architecture.json",
        json.dumps({**EXPORT, "space": {"name": "resnet20-pooling", "options": {"num_classes": 15_000_000}}}),
        "nas.load(path.parent)",
        "`num_classes` must be an integer .*; got 15000000; at most 1,000,000",
    ),
    "weights of an export": (
        "architecture.json",
        json.dumps({"space": {"name": "resnet-elastic", "options": WIDE}, "choices": {
            "stage1.depth": 3, "stage2.depth": 4, "stage3.depth": 6, "stage4.depth": 3}}),
        "nas.load(path.parent)",
        "must be of the weights beside it, 1 numbers, got an architecture of",
    ),
    "huge export": ("architecture.json", None, "nas.load(path.parent)", "must have at most 67,108,864 bytes"),
}  # fmt: skip
OPTIONS = {
    "make_space('resnet20-pooling', num_classes=15_000_000)": "`num_classes` must be an integer .* at most 1,000,000",
    "make_space('resnet20-pooling', image_size=10**9)": "images of at most 268,435,456 numbers",
    "make_space('resnet20-pooling', image_size=[10**5000, 1])": "images of at most 268,435,456 numbers, got .{1,130} of 3",
    "make_space('resnet-elastic', depths=list(range(1, 100_001)))": "`depths` must be different integers .* at most 250",
    "make_space('resnet-elastic', choices='kernel', kernels=[10**9 + 1])": "`kernels` must be .* at most 1,001",
    "make_space('resnet-elastic', width_ratios=[1e300])": "`width_ratios` must be",
    "make_space('resnet-elastic', choices='resolution', resolutions=list(range(100_000)))": "`resolutions` must be",
    "make_space('mobilenet-elastic', expansions=[10**9])": "`expansions` must be .* at most 1,000",
    "make_space('resnet-elastic', depths=3)": "must have the types of its factory",
    "build_space('resnet20-pooling', {'paths': 1_000_000})": "`paths` must be an integer of at least 1, got 1000000; .* 100",
    "example_inputs('1x1000000000x1000000000')": "`input` must have at most 268,435,456 numbers",
    "example_inputs('x'.join(['1'] * 100_000))": "in 64 dimensions, got '1x1",
    "yaml_values(['a=' + '[' * 50_000], '--option')": "must have at most 100 levels",
    "nas.configure('resnet20-pooling', 'digits', supernets=10**9)": "less than or equal to 1000, got 1000000000",
    "nas.configure('resnet20-pooling', 'digits', alone_epochs=10**9, seeds=10**12)": "less than or equal to 10000",
    "nas.configure('resnet20-pooling', 'digits', workers=10**9)": "less than or equal to 1000",
    "nas.configure('resnet20-pooling', 'digits', space_options=[0] * 10**7)": r"got \[0, 0, .*…$",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """The path of each case, and what its refusal says: all of one process, in which one that keeps memory is found by the next."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("what a process takes is read from /proc")
    cases = {}
    for name, (file, text, call, _) in FILES.items():
        folder = tmp_path_factory.mktemp("file")
        if file == "architecture.json":
            export(folder, {})
        large(folder / file) if text is None else (folder / file).write_text(text)
        cases[name] = str(folder / file), call
    cases |= {call: ("", call) for call in OPTIONS}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(list(cases.values()))],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: (path, text) for (name, (path, _)), text in zip(cases.items(), found, strict=True)}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_absurd_size_is_refused_at_no_cost(name: str, said: dict[str, tuple[str, str]]) -> None:
    path, text = said[name]
    assert re.search(FILES[name][3], text) and path in text and len(text) < 700, text


@pytest.mark.parametrize("call", OPTIONS)
def test_an_option_of_absurd_size_is_refused_at_no_cost(call: str, said: dict[str, tuple[str, str]]) -> None:
    text = said[call][1]
    assert re.search(OPTIONS[call], text) and len(text) < 700, text


@pytest.mark.parametrize(
    "value", [1, -2.5, "a'b", None, True, [], [1, "a"], (), (1,), (1, 2), {}, {"a": [1, {"b": None}]}, b"x", {3}]
)
def test_short_values_are_quoted_as_python_writes_them(value: object) -> None:
    assert quoted(value) == repr(value)


def test_a_value_of_any_size_is_quoted_in_a_line() -> None:
    laughs: list[object] = ["lol"] * 10
    deep: list[object] = []
    for _ in range(10_000):
        laughs, deep = [laughs] * 10, [deep]
    itself: list[object] = []
    itself.append(itself)
    for value in (laughs, deep, itself, "x" * 10**7, 16**10_000, {1: "y" * 10**6}, tuple(range(10**6))):
        text = quoted(value)
        assert len(text) == 121 and text.endswith("…")
