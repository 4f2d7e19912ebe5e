"""`nas prune --vocabulary`: unused tokens go before the cut, and all that is needed to read the model back is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas import prune
from nas.pruning import read_prune_config
from nas.pruning.vocabulary import VocabularyConfig, read_texts, read_tokenizer
from pruners import load
from tests.commands import run
from tests.pruners.hugging_face import tiny
from tests.pruners.tokenizers import corpus, tokenizer

TARGET = "tests.nas.pruning.test_vocabulary:language"
TEXTS = [line for line in corpus() if "string" in line][:20]


def language() -> Any:
    return tiny(
        "BertForMaskedLM",
        vocab_size=400,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )


def inputs() -> dict[str, Tensor]:
    ids = torch.tensor([tokenizer("WordPiece")(TEXTS[0])["input_ids"]])
    return {"attention_mask": torch.ones_like(ids), "input_ids": ids}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer("WordPiece").save_pretrained(tmp_path / "words")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n\n", encoding="utf-8")
    return tmp_path


def test_tokens_go_before_the_cut_and_the_model_is_read_back(folder: Path) -> None:
    from transformers import AutoTokenizer

    words = ["--vocabulary", folder / "texts.txt", "--tokenizer", folder / "words"]
    given = [
        TARGET,
        "--input",
        "tests.nas.pruning.test_vocabulary:inputs",
        "--target",
        "params=0.8",
        *words,
        "--allocation",
        "uniform",
    ]
    done = run("prune", *given, "--out", folder / "out", columns=200)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "out" / "summary.json").read_text())
    vocabulary = json.loads((folder / "out" / "vocabulary.json").read_text())
    after = len(vocabulary["kept"])
    assert summary["vocabulary"]["before"] == 400 and summary["vocabulary"]["after"] == after < 400
    assert f"vocabulary of 400 tokens before all else: {after} stay, 100.00 % of those in the texts" in done.stdout
    settings = summary["settings"]["words"]
    assert settings == {"vocabulary": str(folder / "texts.txt"), "tokenizer": str(folder / "words")}
    full = language()
    small = load(folder / "out", full)
    again = AutoTokenizer.from_pretrained(folder / "out" / "tokenizer")
    ids = torch.tensor([again(TEXTS[1])["input_ids"]])
    assert len(again) == after and full.config.vocab_size == 400
    assert small(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (*ids.shape, after)
    again_from_file = read_prune_config(folder / "out" / "prune.yaml", trust=True).words
    assert again_from_file.vocabulary == folder / "texts.txt" and again_from_file.tokenizer == str(folder / "words")


class Masked(nn.Module):
    """Takes its inputs by position, and tokens as other integers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = language()

    def forward(self, mask: Tensor, ids: Tensor) -> Tensor:
        return self.inner(input_ids=ids.long(), attention_mask=mask).logits


def test_texts_and_tokeniser_as_they_are_and_the_example_renumbered_where_a_table_looks_it_up(folder: Path) -> None:
    ids = inputs()["input_ids"]
    example = torch.ones_like(ids), torch.full_like(ids, 399, dtype=torch.int32)  # an index beyond the smaller table
    words: dict[str, Any] = {"vocabulary": TEXTS, "tokenizer": tokenizer("WordPiece"), "allocation": "uniform"}
    result, summary = prune(Masked(), example, {"params": 0.8}, out=folder / "out", **words)
    assert result.summary.difference is not None and result.summary.difference < 1e-5
    assert result.model(torch.ones_like(ids), torch.ones_like(ids)).shape[-1] == summary["vocabulary"]["after"] < 400
    assert summary["settings"]["words"]["vocabulary"] == "20 texts"
    assert "Tokenize" in summary["settings"]["words"]["tokenizer"] and not (folder / "out" / "prune.yaml").exists()


def test_texts_are_lines_of_files(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "b.txt").write_text("last\n")
    (folder / "more" / "a.txt").write_text("erste Zeile: Grüße\n \nsecond\n", encoding="utf-8")
    assert read_texts(folder / "more") == ["erste Zeile: Grüße", "second", "last"]
    assert read_texts(folder / "texts.txt") == TEXTS
    (folder / "texts.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="`vocabulary` must be text in UTF-8"):
        read_texts(folder / "texts.txt")
    (folder / "none").mkdir()
    with pytest.raises(ValueError, match="`vocabulary` must be a file of texts, or a folder of .txt files"):
        read_texts(folder / "none")
    with pytest.raises(FileNotFoundError):
        read_texts(folder / "nowhere.txt")


@pytest.mark.parametrize("given", [{"vocabulary": "texts.txt"}, {"tokenizer": "folder"}])
def test_texts_and_tokeniser_go_together(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="`vocabulary` and `tokenizer` go together; give both, or neither"):
        VocabularyConfig(**given)  # type: ignore[arg-type]


def test_folders_without_a_tokeniser_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="`tokenizer` must be the folder of a Hugging Face tokeniser, got nowhere, which is none"
    ):
        read_tokenizer("nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="`tokenizer` must be the folder of a Hugging Face tokeniser, got .*empty"):
        read_tokenizer(folder / "empty")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="`tokenizer` needs the package transformers; pip install transformers"):
        read_tokenizer(folder / "words")
