"""The configuration: complete, readable again, and strict."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.runtime import as_yaml
from nas.study.config import differences, parse_config, read_config
from nas.study.defaults import configure
from nas.training.alone import Distillation


def test_it_is_written_whole_and_read_back(tmp_path: Path) -> None:
    config = configure(
        "resnet20-pooling", "digits", space_options={"operators": ["max", "conv"]}, trials=5, export=["onnx"]
    )
    (tmp_path / "run.yaml").write_text(as_yaml(config))
    assert read_config(tmp_path / "run.yaml") == config
    assert "kl_threshold" in as_yaml(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "mixtur"}, "no strategy is named 'mixtur'; did you mean mixture"),
        ({"strategy": "gradient"}, "no strategy is named 'gradient'; known: mixture"),
        ({"objectives": ["acuracy"]}, "accuracy"),
        ({"export": ["onx"]}, r"no format is named 'onx'; did you mean onnx\?"),
        ({"trials": 0}, "`budget.trials`: input should be greater than 0, got 0"),
        ({"seconds": -1.0}, "`budget.seconds`: input should be greater than 0, got -1"),
        ({"epochs": 0}, "`supernets.training.epochs`: input should be greater than 0, got 0"),
        ({"alone_epochs": -3}, "`alone.training.epochs`: input should be greater than 0, got -3"),
        ({"supernets": -1}, "`supernets.count`: input should be greater than or equal to 0, got -1"),
        ({"supernets": 0}, "strategy mixture needs `supernets` of at least 1, got 0"),
        ({"strategy": "one-shot", "supernets": 2}, "one-shot trains exactly 1 supernet, got 2; use mixture"),
        ({"batch_size": 1}, "batch_size"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"limit": 0}, "`data.limit`: input should be greater than 0, got 0"),
        ({"retrain": "some"}, "`alone.which`: input should be 'front', 'all' or 'none', got 'some'"),
        ({"seed": -1}, "seed"),
        ({"momentum": 1.0}, "`supernets.training.momentum`: input should be less than 1, got 1"),
        ({"label_smoothing": -0.1}, "`supernets.training.label_smoothing`: input should be greater than or equal to 0"),
        (
            {"teacher": "a:b", "distill_weight": 1.5},
            "`supernets.distillation.weight`: .* less than or equal to 1, got 1.5",
        ),
        (
            {"teacher": "a:b", "distill_temperature": 0.0},
            "`supernets.distillation.temperature`: input should be greater than 0, got 0",
        ),
        ({"optimizer": "adam"}, "`supernets.training.optimizer`: input should be 'sgd' or 'adamw', got 'adam'"),
        ({"clip": 0.0}, "`supernets.training.clip`: input should be greater than 0, got 0"),
        ({"warm_up": 1.0}, "`supernets.training.warm_up`: input should be less than 1, got 1"),
        (
            {"warm_up": 0.1, "schedule": "one-cycle"},
            "one-cycle rises by itself, so `warm_up` must be 0, got 0.1; leave it out, or choose another schedule",
        ),
        ({"distill_weight": 0.5}, "are for a given teacher, .* leave them out, or give one; got teacher None"),
    ],
)
def test_a_bad_setting_is_named_with_its_rule(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure("resnet20-pooling", "digits", **settings)


def test_momentum_and_label_smoothing_hold_for_both_trainings_and_distillation_for_the_teacher() -> None:
    settings = {"momentum": 0.8, "label_smoothing": 0.1, "weight_decay": 1e-4, "clip": 2.0, "warm_up": 0.1}
    config = configure("s", "d", teacher="a:b", distill_weight=0.3, distill_temperature=2.0, **settings)
    for training in (config.supernets.training, config.alone.training):
        assert {name: getattr(training, name) for name in settings} == settings
    assert config.supernets.distillation == Distillation(weight=0.3, temperature=2.0)


@pytest.mark.parametrize(
    ("space", "settings", "rates"),
    [
        ("s", {}, (0.1, 1e-3)),
        ("s", {"optimizer": "adamw"}, (1e-3, 1e-5)),
        ("s", {"optimizer": "adamw", "learning_rate": 0.02}, (0.02, 1e-5)),
        ("pruned:a:b", {}, (0.01, 1e-3)),
        ("pruned:a:b", {"optimizer": "adamw"}, (1e-4, 1e-5)),
    ],
)
def test_a_learning_rate_that_is_not_given_fits_the_optimiser(space: str, settings: dict, rates: tuple) -> None:
    config = configure(space, "d", **settings)
    for training in (config.supernets.training, config.alone.training):
        assert (training.learning_rate, training.final_learning_rate) == rates
        assert training.optimizer == settings.get("optimizer", "sgd")


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="`epoch`: extra inputs are not permitted, got 3"):
        parse_config({"space": {"name": "a"}, "data": {"source": "digits"}, "epoch": 3})


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"run\.yaml: must be YAML"):
        read_config(tmp_path / "run.yaml")
    with pytest.raises(FileNotFoundError, match=r"no configuration at .*absent\.yaml"):
        read_config(tmp_path / "absent.yaml")


def test_supernets_default_to_what_the_strategy_needs() -> None:
    counts = {
        name: configure("s", "d", strategy=name).supernets.count for name in ("mixture", "one-shot", "random", "nsga2")
    }
    assert counts == {"mixture": 4, "one-shot": 1, "random": 1, "nsga2": 1}


def test_differences_name_the_settings() -> None:
    a, b = configure("s", "d", seed=1), configure("s", "d", epochs=7)
    assert differences(a, a) == []
    assert differences(a, b) == [
        "supernets.training.epochs: 100, not 7",
        "alone.training.epochs: 100, not 7",
        "seed: 1, not 0",
    ]
