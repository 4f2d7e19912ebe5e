"""A front stands against the trained model, and against what other methods made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import nas
from nas.report import write_controls
from nas.report.write import write_report
from nas.study import Study

pytestmark = pytest.mark.usefixtures("hurried")
HERE = "tests.nas.report.test_beside"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, hurried: None) -> Study:
    return nas.search(
        model=f"{HERE}:net", data="digits", objectives=("accuracy", "macs"), strategy="random", trials=20, device="cpu", trust=True,
        out=tmp_path_factory.mktemp("beside") / "run",
    )  # fmt: skip


def test_the_page_holds_the_front_against_the_trained_model(study: Study) -> None:
    page = (study.folder / "report.html").read_text()
    assert "Against the trained model" in page and "What other methods made of it" not in page
    cheapest = study.front.iloc[0]
    assert f"{2368 / cheapest['macs']:.2f} times less" in page
    assert '"parent":0' in page


def test_controls_stand_on_the_plot_and_the_page(study: Study) -> None:
    before = (study.folder / "plots" / "front.png").read_bytes()
    rows = [
        {"method": "by <hand>", "accuracy": 0.5, "macs": 1000.0},
        {"method": "by <hand>", "accuracy": 0.4, "macs": 500.0},
        {"method": "other", "accuracy": None, "macs": 700.0, "params": 800.0},
    ]
    path = write_controls(study.folder, rows)
    write_report(study)
    page = (study.folder / "report.html").read_text()
    assert "What other methods made of it" in page and "by &lt;hand&gt;" in page and "50.00 %" in page
    assert (study.folder / "plots" / "front.png").read_bytes() != before
    path.write_text("name,macs\na,b\n")
    with pytest.raises(ValueError, match="controls need a column `method`, got name, macs"):
        write_report(study)
    path.unlink()


def test_a_control_has_a_method(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a control must have a `method`"):
        write_controls(tmp_path, [{"macs": 3.0}])
