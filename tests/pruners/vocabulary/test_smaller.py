"""Models without unused tokens: the same numbers inside, the same logits of what stays, saved and loaded as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pruners import Vocabulary, smaller_vocabulary
from tests.pruners.hugging_face import tiny
from tests.pruners.tokenizers import corpus, tokenizer

TEXTS = [line for line in corpus() if "string" in line][:20]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
T5 = {
    "d_model": 16,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "d_kv": 8,
    "d_ff": 24,
    "decoder_start_token_id": 0,
}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 80, "decoder_start_token_id": 3}  # fmt: skip
NUMBERS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": [3, 399]}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("BertModel", "WordPiece", SMALL),
    "BERT, masked": ("BertForMaskedLM", "WordPiece", SMALL),
    "RoBERTa": ("RobertaForMaskedLM", "WordPiece", {**SMALL, "max_position_embeddings": 80}),
    "Llama": ("LlamaForCausalLM", "BPE with bytes", {**SMALL, **NUMBERS, "tie_word_embeddings": False}),
    "GPT-2": ("GPT2LMHeadModel", "BPE", {"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 2, "eos_token_id": 3}),
    "T5": ("T5ForConditionalGeneration", "Unigram", {**T5, "tie_word_embeddings": False}),
    "BART": ("BartForConditionalGeneration", "BPE with an end of words", BART),
}  # fmt: skip
EXTRA = 7  # rows of the table beyond the last token


def full(name: str) -> tuple[Any, Any]:
    kind, words, options = MODELS[name]
    reader = tokenizer(words)
    numbers = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    return tiny(kind, **{**numbers, **options, "vocab_size": len(reader) + EXTRA}), reader


def outputs(model: nn.Module, ids: Tensor) -> list[Tensor]:
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found = model(input_ids=ids, **more, output_hidden_states=True)
    return [x for x in tree_leaves(found) if isinstance(x, Tensor) and x.is_floating_point()]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_full_model_and_all_is_saved(name: str, tmp_path: Path) -> None:
    model, reader = full(name)
    with torch.no_grad():
        for parameter in model.parameters():  # also biases, which are 0 at first
            parameter.add_(0.1 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    smaller, mended, vocabulary = smaller_vocabulary(model, reader, TEXTS)
    rows, kept = model.config.vocab_size, list(vocabulary.kept)
    assert smaller.config.vocab_size == len(mended) == len(kept) == vocabulary.after < vocabulary.before == rows
    assert (
        vocabulary.same == vocabulary.texts == len(TEXTS) and vocabulary.coverage == 1 and vocabulary.difference < 1e-6
    )
    for text in TEXTS[:3]:
        ids = torch.tensor([mended(text)["input_ids"]])
        pairs = zip(outputs(model, torch.tensor([reader(text)["input_ids"]])), outputs(smaller, ids), strict=True)
        for there, here in pairs:
            if there.shape == here.shape:
                assert torch.equal(there, here)
            else:
                assert torch.allclose(there[..., kept], here, atol=1e-6)
    assert not [key for key, value in smaller.state_dict().items() if rows in value.shape]
    integers = [value for module in smaller.modules() for value in vars(module).values() if type(value) is int]
    assert rows not in integers
    assert count(model) - count(smaller) == (vocabulary.bytes_before - vocabulary.bytes_after) // 4
    assert (
        all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        and model.config.vocab_size == rows
    )
    smaller.save_pretrained(tmp_path)
    again = type(smaller).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(outputs(again, ids), outputs(smaller, ids), strict=True))


def count(model: nn.Module) -> int:
    """Numbers in parameters, and in biases that are buffers."""
    return sum(x.numel() for x in model.parameters()) + sum(
        x.numel() for k, x in model.named_buffers() if k == "final_logits_bias"
    )


def test_special_numbers_are_new_wherever_they_stand() -> None:
    model, reader = full("Llama")
    last = len(reader) - 1
    model.config.eos_token_id = model.generation_config.eos_token_id = [3, last]
    model.generation_config.suppress_tokens = [2, last - 1]
    model.generation_config.bad_words_ids = [[2], [2, last - 1]]
    model.model.padding_idx = model.model.embed_tokens.padding_idx = last
    smaller, _, vocabulary = smaller_vocabulary(model, reader, TEXTS)
    new = list(vocabulary.kept).index(last)
    assert last - 1 not in vocabulary.kept and new < last
    assert smaller.config.eos_token_id == smaller.generation_config.eos_token_id == [3, new]
    assert smaller.model.config is smaller.config and smaller.config.bos_token_id == 2
    assert smaller.generation_config.suppress_tokens == [2] and smaller.generation_config.bad_words_ids == [[2]]
    assert smaller.model.padding_idx == smaller.model.embed_tokens.padding_idx == new
    assert model.config.eos_token_id == [3, last] and model.generation_config.bad_words_ids == [[2], [2, last - 1]]


class Encoder(nn.Module):
    """A model of transformers inside a module of one's own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.mask = inner, nn.Parameter(torch.ones(3))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.inner(input_ids=input_ids).last_hidden_state.mean(1)


def test_a_model_inside_a_module_of_ones_own_in_half_precision() -> None:
    model, reader = full("BERT")
    whole = Encoder(model.to(torch.bfloat16)).train()
    smaller, mended, vocabulary = smaller_vocabulary(whole, reader, TEXTS)
    assert whole.training and smaller.training and model.training
    ids = torch.tensor([reader(TEXTS[0])["input_ids"]])
    assert torch.equal(vocabulary.renumber(ids), torch.tensor([mended(TEXTS[0])["input_ids"]]))
    with torch.no_grad():
        assert torch.equal(whole.eval()(ids), smaller.eval()(vocabulary.renumber(ids)))


def test_tied_heads_stay_tied_and_frozen_tables_frozen() -> None:
    model, reader = full("GPT-2")
    model.transformer.wte.weight.requires_grad_(False)
    smaller, _, _ = smaller_vocabulary(model, reader, TEXTS)
    assert smaller.lm_head.weight is smaller.transformer.wte.weight and not smaller.lm_head.weight.requires_grad
    assert smaller.lm_head.out_features == smaller.transformer.wte.num_embeddings == smaller.config.vocab_size


def test_seldom_tokens_go_and_named_ones_stay() -> None:
    model, reader = full("BERT")
    twice = ["string", *["return a copy"] * 3]
    seldom = reader.convert_tokens_to_ids(reader.tokenize("string"))
    _, mended, vocabulary = smaller_vocabulary(model, reader, twice, min_count=2)
    assert not {*seldom} <= {*vocabulary.kept} and vocabulary.same == 3 and vocabulary.coverage < 1
    assert mended.decode(mended("string")["input_ids"], skip_special_tokens=True) == "string"
    _, _, more = smaller_vocabulary(model, reader, twice, keep=[reader.tokenize("string")[0], 300], min_count=2)
    assert {seldom[0], 300} <= {*more.kept}
    gone = next(number for number in range(vocabulary.before) if number not in vocabulary.kept)
    assert vocabulary.renumber(torch.tensor([gone, 1])).tolist() == [1, 1]


def test_a_vocabulary_survives_its_file(tmp_path: Path) -> None:
    _, _, vocabulary = smaller_vocabulary(*full("GPT-2"), TEXTS)
    vocabulary.save(tmp_path)
    assert Vocabulary.load(tmp_path) == vocabulary
    path = tmp_path / "vocabulary.json"
    path.write_text(path.read_text().replace("[0, 1, 2", "[0, 2, 1"))
    with pytest.raises(ValueError, match="must be rows of the table of 407, ascending, each once"):
        Vocabulary.load(tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="vocabulary.json must hold what `Vocabulary.save` wrote"):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": []}, "`texts` must be what the model will read, got 0 without a word"),
        ({"texts": ["", " "]}, "got 2 without a word"),
        ({"texts": "one text"}, "`texts` must be a list of texts, got one"),
        ({"texts": [3]}, "`texts` must be a list of texts, got others"),
        ({"min_count": 0}, "`min_count` must be a whole number of at least 1, got 0"),
        ({"keep": ["nosuchtoken"]}, "`keep` must name tokens of the tokeniser.*got 'nosuchtoken'"),
        ({"keep": [10**6]}, "`keep` must name tokens of the tokeniser.*got 1000000"),
        ({"tokenizer": "bert"}, "`tokenizer` must be a fast Hugging Face tokeniser.*got str"),
        ({"model": nn.Linear(2, 2)}, "`model` must be a Hugging Face text model, or have one inside.*got Linear"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    model, reader = full("GPT-2")
    given = {"model": model, "tokenizer": reader, "texts": TEXTS, **change}
    with pytest.raises(ValueError, match=message):
        smaller_vocabulary(**given)


def test_tokens_beyond_the_table_are_refused() -> None:
    model, reader = full("BERT")
    reader.add_tokens([f"more{i}" for i in range(EXTRA + 1)])
    with pytest.raises(
        ValueError, match="below the 407 rows of the model's table, got 1 beyond, such as 'more7', 407; `resize_token"
    ):
        smaller_vocabulary(model, reader, TEXTS)


def test_a_table_that_is_not_as_configured_is_refused() -> None:
    model, reader = full("BERT")
    model.config.vocab_size += 1
    with pytest.raises(
        ValueError, match="`vocab_size` of the configuration must be the number of rows of the table, 407, got 408"
    ):
        smaller_vocabulary(model, reader, TEXTS)
    bert, roberta = full("BERT")[0], tiny("RobertaModel", **SMALL, vocab_size=60)
    with pytest.raises(ValueError, match=r"must have one vocabulary, got tables of \[60, 407\] rows"):
        smaller_vocabulary(nn.ModuleList([bert, roberta]), reader, TEXTS)


def test_a_model_that_computes_with_numbers_of_tokens_is_refused() -> None:
    model, reader = full("BERT")
    kind = type(model)

    class Odd(kind):  # type: ignore[misc, valid-type]
        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids=input_ids).last_hidden_state * input_ids.max()

    odd = Odd(model.config).eval()
    with pytest.raises(
        ValueError, match="must leave outputs as they are, to 1e-05.*does more with the numbers of tokens"
    ):
        smaller_vocabulary(odd, reader, TEXTS)


def test_a_model_that_does_not_run_on_tokens_alone_is_refused() -> None:
    model, reader = full("BERT")

    class Seeing(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: Tensor, pixels: Tensor) -> Tensor:
            return super().forward(input_ids=input_ids).last_hidden_state + pixels

    with pytest.raises(
        ValueError, match="`model` must run on tokens alone to prove its smaller vocabulary, got .*pixels"
    ):
        smaller_vocabulary(Seeing(model.config).eval(), reader, TEXTS)
    inside = nn.ModuleList([model])  # what can be run inside proves the whole
    assert smaller_vocabulary(inside, reader, TEXTS)[2].difference < 1e-6
