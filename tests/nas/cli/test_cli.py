"""The commands as a person or a script uses them, with their exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import nas
from nas import Study
from nas.cli.profile import profile
from tests.commands import lines, run, run_alone

QUICK = "--supernets 1 --strategy random --trials 3 --epochs 1 --retrain none --batch-size 64 --limit 200 --test-limit 50".split()


@pytest.mark.parametrize(
    "command", ["search", "train", "watch", "front", "export", "profile", "spaces", "report", "inspect"]
)
def test_help_shows_an_example(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert re.search(rf"Example:\s+nas {command}", re.sub(r"[│`\s]+", " ", done.stdout)), done.stdout


def test_a_search_from_the_command_line_and_again_from_its_yaml(tmp_path: Path) -> None:
    """The first in a process of its own: the second, in this one, ends the same."""
    done = run_alone("search", "--data", "digits", *QUICK, "--out", tmp_path / "first")
    assert done.returncode == 0, done.stderr
    assert "resnet20-pooling on digits" in done.stdout and "report.html" in done.stdout
    assert "supernets" in done.stderr and "ranking" in done.stderr
    again = run("search", "--config", tmp_path / "first" / "run.yaml", "--out", tmp_path / "second", "--json")
    assert [row["label"] for row in lines(again)] == list(Study.open(tmp_path / "first").front["label"])
    assert Study.open(tmp_path / "second").trials["accuracy"].equals(Study.open(tmp_path / "first").trials["accuracy"])
    resumed = run("search", "--resume", tmp_path / "first", "--json")
    assert lines(resumed) == lines(again) or len(lines(resumed)) == len(lines(again))


def test_front_picks_and_limits(finished: Study) -> None:
    rows = lines(run("front", finished.folder, "--json"))
    assert [row["label"] for row in rows] == list(finished.front["label"])
    middle = sorted(row["macs"] for row in rows)[len(rows) // 2]
    limited = lines(run("front", finished.folder, "--limit", f"macs={middle}", "--json"))
    assert [row["label"] for row in limited] == [row["label"] for row in rows if row["macs"] <= middle]
    best = lines(run("front", finished.folder, "--pick", "best", "--json"))
    assert [row["accuracy_alone"] for row in best] == [max(row["accuracy_alone"] for row in rows)]
    assert len(lines(run("front", finished.folder, "--pick", "knee", "--json"))) == 1
    named = lines(run("front", finished.folder, "--pick", "4-3-3", "--json"))
    assert [row["label"] for row in named] == ["4-3-3"]


def test_a_title_is_one_line_however_narrow_its_table() -> None:
    done = run("profile", "resnet20-pooling", "--arch", "4-3-3", "--by", "operator")
    assert done.stdout.splitlines()[0] == "resnet20-pooling 4-3-3: 40.8 M macs, 272 k params, 201 k activations"


def test_the_table_shows_every_figure(finished: Study) -> None:
    done = run("front", finished.folder)
    assert done.returncode == 0
    for label in finished.front["label"]:
        assert label in done.stdout
    for column in ("accuracy alone", "macs", "params", "latency"):
        assert column in done.stdout


def test_export_writes_folders_that_load(finished: Study, tmp_path: Path) -> None:
    rows = lines(
        run("export", finished.folder, "--pick", "knee", "--format", "safetensors,onnx", "--out", tmp_path, "--json")
    )
    folder = Path(rows[0]["folder"])
    assert {path.name for path in folder.iterdir()} == {
        "architecture.json",
        "model.safetensors",
        "model.onnx",
        "README.md",
    }
    assert nas.load(folder)


def test_profile_counts(tmp_path: Path) -> None:
    ours = lines(run("profile", "resnet20-pooling", "--arch", "4-3-3", "--json"))[0]
    assert ours["macs"] == 40_813_184
    for counter in ("fvcore", "thop"):
        theirs = lines(run("profile", "resnet20-pooling", "--arch", "4-3-3", "--counter", counter, "--json"))[0]
        assert theirs["macs"] >= ours["macs"] and theirs["params"] == ours["params"]
    module = lines(
        run(
            "profile",
            "torch.nn:Linear",
            "--option",
            "in_features=8",
            "--option",
            "out_features=4",
            "--input",
            "1x8",
            "--json",
        )
    )
    assert module[0]["macs"] == 32


def test_choices_are_short_for_the_option_of_the_space() -> None:
    arch = json.dumps({"pools": [2, 4], "operator": "avg"})
    short = lines(run("profile", "resnet-elastic", "--arch", arch, "--choices", "pooling", "--json"))[0]
    assert short == profile("resnet-elastic", arch=arch, options={"choices": ["pooling"]}).totals
    done = run("search", "--space", "resnet-elastic", "--choices", "width,dept", *QUICK)
    assert done.returncode == 2 and "no choice of `choices` is named 'dept'; did you mean depth" in done.stderr


def test_a_search_of_widths_depths_groups_and_pooling(tmp_path: Path) -> None:
    args = ["--space", "resnet-elastic", "--choices", "width,depth,groups,pooling", "--option", "depths=[1]"]
    done = run("search", *args, *QUICK, "--out", tmp_path / "run", "--json")
    rows = lines(done)
    assert rows and all(row["macs"] > 0 for row in rows)
    exported = lines(run("export", tmp_path / "run", "--pick", "knee", "--json"))[0]
    assert nas.load(exported["folder"]) is not None


def test_spaces_are_listed() -> None:
    rows = lines(run("spaces", "--json"))
    assert {row["space"]: row["architectures"] for row in rows} == {
        "resnet20-pooling": 36,
        "resnet18-pooling": 56,
        "resnet50-pooling": 560,
        "nas-bench-macro": 3969,
        "nas-bench-201": 5044,
        "resnet-elastic": (3 * (3 + 9 + 27)) ** 3,
        "mobilenet-elastic": 7371**5,
        "channel-bench-macro-resnet": 4**7,
    }


def test_report_writes_the_page_again(finished: Study, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    (folder / "report.html").unlink()
    done = run("report", folder)
    assert done.returncode == 0 and (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["search", "--space", "resnet20-poolin", *QUICK],
            "no search space is named 'resnet20-poolin'; did you mean resnet20-pooling",
        ),
        (["search", "--strategy", "mixtur"], "no strategy is named 'mixtur'; did you mean mixture"),
        (["search", "--epochs", "0"], "greater than 0, got 0"),
        (["search", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["search", "--trials", "-1"], "greater than 0, got -1"),
        (["search", "--data", "/no/such/folder"], "/no/such/folder"),
        (["search", "--device", "cuda:99", *QUICK], "`--device` must be"),
        (["search", "--space", "nowhere:make", *QUICK], "cannot import 'nowhere'"),
        (["search", "--space", "json:nothing", *QUICK], "module 'json' has no function 'nothing'"),
        (["search", "--option", "bn", *QUICK], "`--option` must be name=value, got 'bn'"),
        (
            ["search", "--option", "bn=paper", "--option", "bn=affine", *QUICK],
            "must name each once, got bn=paper and bn=affine",
        ),
        (["search", "--option", "bn=none", *QUICK], "`bn` must be one of paper, affine; got 'none'"),
        (["search", "--image-size", "2", *QUICK], "`--image-size` must be at least 4 for 2 poolings, got 2"),
        (["search", "--resume", "/no/such/run"], "is not a run folder"),
        (["front", "/no/such/run"], "is not a run folder"),
        (["profile", "resnet20-pooling", "--arch", "4-4-4"], "a label must be 3 counts"),
        (["profile", "resnet20-pooling"], "--arch"),
        (["profile", "torch.nn:Flatten", "--input", "1by2"], "`--input` must be sizes joined by x"),
        (["profile", "resnet20-pooling", "--arch", "4-3-3", "--counter", "nvidia"], "nvidia"),
        (["list", "sampler"], "no kind to list is named 'sampler'; did you mean samplers"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "search" and "--resume" not in arguments else []
    done = run(*arguments, *out)
    assert done.returncode == 2, done.stderr
    flat = re.sub(r"[│╭╮╰╯─\s]+", " ", done.stderr)
    assert message in flat and "Traceback" not in flat
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


def test_a_process_ends_with_the_code_of_its_command(tmp_path: Path) -> None:
    done = run_alone("front", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a run folder" in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "macs=1"], "nothing on the front has macs of at most 1; the least is"),
        (["--limit", "speed=1"], "no limit can be set on 'speed'; the columns are"),
        (["--limit", "macs=few"], "`--limit` must be name=number"),
        (["--limit", "label=3"], "no limit can be set on 'label'"),
        (["--pick", "4-4-4"], "a label must be 3 counts"),
    ],
)
def test_bad_picks_say_what_can_be_reached(finished: Study, arguments: list[str], message: str) -> None:
    done = run("front", finished.folder, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in re.sub(r"\s+", " ", done.stderr)


def test_a_full_disk_fails_clearly_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    done = run_alone("search", *QUICK, "--out", tmp_path / "run", limit_file_size=100_000)
    assert done.returncode == 1, done.stderr
    assert "could not write" in done.stderr and "checkpoint.safetensors" in re.sub(r"\s+", "", done.stderr)
    assert (
        not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "run" / "supernets" / "checkpoint.safetensors").exists()
    )
    assert run("search", *QUICK, "--out", tmp_path / "run").returncode == 0
