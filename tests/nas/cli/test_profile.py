"""`nas profile` by operator and with several counters; unknown operators are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas.cli.profile import profile


class Fourier(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(super().forward(x)).real


def fourier() -> nn.Module:
    return Fourier(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(2), nn.Linear(36, 5))


TARGET = f"{__name__}:fourier"


def test_by_operator_unknown_ones_are_named() -> None:
    found = profile(TARGET, inputs=["1x3x8x8"], by="operator")
    assert found.columns == ["operator", "macs", "share"]
    assert [row[0] for row in found.rows] == ["convolution", "addmm"]
    assert found.notes == ["not counted: aten._fft_r2c (1 times)"] or "fft" in found.notes[0]
    assert profile(TARGET, inputs=["1x3x8x8"]).columns[0] == "module"


def test_counters_side_by_side() -> None:
    found = profile(TARGET, inputs=["1x3x8x8"], counter="torch, fvcore,thop")
    assert found.columns == ["", "torch", "fvcore", "thop"]
    figures = {row[0]: row[1:] for row in found.rows}
    assert len(set(figures["convolutions and linear"])) == 1
    assert len(set(figures["macs"])) > 1
    assert set(found.totals["counters"]) == {"torch", "fvcore", "thop"}
    assert any(note.startswith("torch: not counted: aten._fft") for note in found.notes)


def test_totals_say_all_that_the_table_does() -> None:
    modules = profile(TARGET, inputs=["1x3x8x8"]).totals["modules"]
    assert modules["0"]["macs"] == 3 * 9 * 8 * 36 and set(modules) == {"", "0", "1", "2", "3"}
    for counter in ("torch", "fvcore"):
        found = profile(TARGET, inputs=["1x3x8x8"], counter=counter)
        assert len(found.totals["unsupported"]) == len(found.notes) > 0


def test_what_would_not_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="knows its input, 3x32x32: leave out --input"):
        profile("resnet20-pooling", arch="4-3-3", inputs=["1x3x64x64"])
    with pytest.raises(ValueError, match="is a module, which has no architectures: leave out --arch 4"):
        profile(TARGET, inputs=["1x3x8x8"], arch="4")
    with pytest.raises(ValueError, match="rows by module are those of the counter torch, got thop"):
        profile(TARGET, inputs=["1x3x8x8"], counter="thop", by="module")


def test_a_comma_too_many_is_no_counter() -> None:
    assert profile(TARGET, inputs=["1x3x8x8"], counter="torch,").totals["counter"] == "torch"
    with pytest.raises(ValueError, match="no counter is named ''"):
        profile(TARGET, inputs=["1x3x8x8"], counter="")


def test_unknown_rows_and_counters() -> None:
    with pytest.raises(ValueError, match="no kind of row is named 'modul'; did you mean module"):
        profile(TARGET, inputs=["1x3x8x8"], by="modul")
    with pytest.raises(ValueError, match="no counter is named 'thop2'; did you mean thop"):
        profile(TARGET, inputs=["1x3x8x8"], counter="torch,thop2")


def tokens() -> dict[str, Tensor]:
    return {"input": torch.zeros(2, 3, 8, 8)}


def two_inputs() -> nn.Module:
    return nn.Bilinear(3, 4, 5)


def test_inputs_are_counted_as_they_are_given() -> None:
    """The first axis of a sequence-first model is no batch."""
    options = {"d_model": 192, "nhead": 3}
    target = "torch.nn:TransformerEncoderLayer"
    sequence = profile(target, inputs=["197x1x192"], options=options)
    assert sequence.totals["macs"] == 198_878_592
    assert sequence.notes == ["counted for one call on 197x1x192, whatever is a batch in it"]
    batch = profile(target, inputs=["1x197x192"], options=options | {"batch_first": True})
    assert batch.totals["macs"] == sequence.totals["macs"] and not batch.notes
    recurrent = profile("torch.nn:LSTM", inputs=["7x1x4"], options={"input_size": 4, "hidden_size": 5})
    assert recurrent.totals["macs"] == 7 * 4 * 5 * (4 + 5)


def test_inputs_of_a_function_by_name_and_several() -> None:
    one = profile(TARGET, inputs=["1x3x8x8"]).totals["macs"]
    assert profile("torch.nn:Identity", inputs=[f"{__name__}:tokens"], counter="torch").totals["macs"] == 0
    assert profile(TARGET, inputs=["2x3x8x8"]).totals["macs"] == 2 * one
    assert profile(f"{__name__}:two_inputs", inputs=["1x3", "1x4"]).totals["params"] == 3 * 4 * 5 + 5
    with pytest.raises(ValueError, match=r"fvcore must run Identity .* inputs by name \(input\) are not taken"):
        profile("torch.nn:Identity", inputs=[f"{__name__}:tokens"], counter="fvcore")
