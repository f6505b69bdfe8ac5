"""Decoding of one text, alone and speculatively; several are in test_continuous.py."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_gpt import add_noise, random_gpt

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.generation import inference_model
from gpt1.generation.decoding import DRAFT_TOKENS, LONG_PROMPT, decode, prefill, should_pack
from gpt1.generation.inference_model import for_inference, prepare_for_decoding
from gpt1.generation.sampling import Sampler
from gpt1.inference.predictor import LanguageModel, load
from gpt1.kernels.int4 import int4_is_supported
from gpt1.model.gpt import GPT
from gpt1.tokenization.tokenizer import Tokenizer

VOCABULARY = 40


def make_tiny_model(context: int, architecture: Any = "transformer") -> GPT:
    return random_gpt(GPTConfig(VOCABULARY, 2, 2, 16, context, 0.0, architecture=architecture, lstm_units=24), seed=3)


MODELS = {(context, "transformer"): make_tiny_model(context) for context in (1, 2, 5, 12)} | {
    (12, "lstm"): make_tiny_model(12, "lstm")
}


def prompts(max_length: int) -> st.SearchStrategy[list[list[int]]]:
    """One to five prompts of 1 to `max_length` tokens."""
    prompt = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=max_length)
    return st.lists(prompt, min_size=1, max_size=5)


def generate_alone(model: GPT, prompt: list[int], new: int, *rest: Any) -> list[int]:
    return model.generate(torch.tensor([prompt]), new, *rest)[0, len(prompt) :].tolist()


# ---- speculative decoding


class PassCounter:
    """Counts the passes of a model."""

    def __init__(self, model: GPT) -> None:
        self.passes = 0
        self.config, self.tokens, self.recurrent, self.activation_dtype = (
            model.config,
            model.tokens,
            False,
            torch.float32,
        )
        self.new_kv_cache, self.logits, self.model = model.new_kv_cache, model.logits, model

    def hidden_states(self, *given: Any, **named: Any) -> torch.Tensor:
        self.passes += 1
        return self.model.hidden_states(*given, **named)


def make_noisy_model(model: GPT, scale: float) -> GPT:
    """A draft model: the weights with noise of that scale. At 0 its tokens are always correct, at 1 rarely."""
    return add_noise(make_tiny_model(model.config.context), scale)


@pytest.mark.parametrize("context", [1, 2, 5, 12])
@given(
    data=st.data(),
    new=st.integers(0, 40),
    scale=st.sampled_from([0.0, 0.02, 0.1, 1.0]),
    seed=st.integers(0, 99),
    way=st.sampled_from([(0.0, 0, 1.0), (1.0, 0, 1.0), (0.7, 5, 0.9)]),
)
def test_the_text_is_that_of_the_model_for_any_draft_tokens(context, data, new, scale, seed, way):
    model = MODELS[context, "transformer"]
    ids = torch.tensor([data.draw(prompts(2 * context + 1))[0]])
    written = [
        decode(model, ids, new, Sampler(*way, torch.Generator().manual_seed(seed)), draft)
        for draft in (None, make_noisy_model(model, scale))
    ]
    assert torch.equal(*written)


@torch.inference_mode()
def test_correct_draft_tokens_save_passes_and_wrong_ones_cost_none():
    model, ids, new = MODELS[12, "transformer"], torch.tensor([[1]]), 12
    for draft, passes in ((model, 1 + -(-(new - 1) // (DRAFT_TOKENS + 1))), (make_tiny_model(12), None), (None, new)):
        if passes is None:
            with torch.no_grad():
                draft.tokens.weight.neg_()  # type: ignore[union-attr]
        counted = PassCounter(model)
        decode(counted, ids, new, Sampler(0), draft)
        assert counted.passes == passes if passes else DRAFT_TOKENS < counted.passes <= new


@pytest.mark.skipif(not int4_is_supported([]), reason="this CPU has no 4-bit products")
@pytest.mark.parametrize(
    ("dtype", "way"),
    [(torch.float32, (0.0, 0, 1.0)), (torch.float32, (1.0, 20, 0.9)), (torch.bfloat16, (0.0, 0, 1.0))],
    ids=str,
)
def test_a_large_model_generates_the_same_text_with_and_without_a_draft(dtype, way, monkeypatch):
    monkeypatch.setattr(inference_model, "MEMORY_BOUND_WEIGHTS", 1000)
    torch.manual_seed(0)
    model = GPT(GPTConfig(300, n_layer=2, n_head=2, n_embd=64, context=96)).eval()
    with torch.no_grad():
        for p in model.blocks.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    model.activation_dtype = dtype
    ids, own = torch.tensor([[1, 2, 3]]), torch.Generator().manual_seed
    writer, draft = prepare_for_decoding(model)
    assert draft is not None
    expected = decode(writer, ids, 90, Sampler(*way, own(1)))
    written = model.generate(ids, 90, *way, own(1))
    with torch.inference_mode():
        logits = writer(expected)[0]
        assert torch.cosine_similarity(logits, draft(expected)[0], dim=-1).mean() > 0.9
    for place in (written != expected)[0].nonzero()[:1, 0]:  # the first token that differs
        # in bfloat16, products over several positions round differently, and nearly equal tokens may be exchanged
        assert dtype == torch.bfloat16
        assert logits[place - 1, expected[0, place]] - logits[place - 1, written[0, place]] < 0.05 * logits.std()


def test_a_draft_model_is_created_only_where_it_is_supported_and_pays(monkeypatch):
    assert prepare_for_decoding(MODELS[12, "transformer"]) == (MODELS[12, "transformer"], None)
    monkeypatch.setattr(inference_model, "MEMORY_BOUND_WEIGHTS", 1)
    assert prepare_for_decoding(make_tiny_model(12))[1] is None  # 16 entries a row
    assert prepare_for_decoding(make_tiny_model(12, "lstm"))[1] is None


@pytest.mark.parametrize(("tokens", "worth"), [(64, True), (63, False)])
def test_weights_are_packed_only_for_enough_tokens(tokens: int, worth: bool):
    assert should_pack(tokens) == worth


def test_logits_that_are_not_finite_are_an_error():
    model = make_tiny_model(12)
    with torch.no_grad():
        model.blocks[0].mlp.widen.bias.fill_(torch.nan)  # type: ignore[union-attr]
    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match="logits are not finite"):
            model.generate(torch.tensor([[1]]), 2, temperature)


# ---- prefill


class RecordingGPT(GPT):
    """Records the number of tokens of each pass."""

    def hidden_states(self, ids: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        self.read = [*vars(self).get("read", []), ids.shape[1]]
        return super().hidden_states(ids, *given, **named)


def recording_model(dtype: torch.dtype, architecture: Any = "transformer") -> RecordingGPT:
    torch.manual_seed(3)
    config = GPTConfig(VOCABULARY, 2, 2, 16, 150, 0.0, architecture=architecture, lstm_units=24)
    model = RecordingGPT(config).to(dtype).eval()
    model.activation_dtype = dtype
    return model


@torch.inference_mode()
@pytest.mark.parametrize("how", ["alone", "cached"])
def test_prefill_in_bfloat16_has_few_different_lengths(how: str):
    model, lengths = recording_model(torch.bfloat16), (1, 32, 33, 34, 64, 65, 66, 97, 98, 130, 149, 150)
    for length in lengths:
        ids = torch.arange(length)[None] % VOCABULARY
        expected = GPT.hidden_states(model, ids)
        cache = model.new_kv_cache(1) if how == "cached" else None
        found = prefill(model, ids, cache)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
        assert cache is None or cache.length == length
    sizes = {size for size in model.read if size > LONG_PROMPT}
    assert sizes == {64, 96, 128, 150}  # multiples of 32, and the context


@torch.inference_mode()
@pytest.mark.parametrize(
    ("dtype", "architecture"), [(torch.float32, "transformer"), (torch.bfloat16, "lstm")], ids=["fp32", "lstm"]
)
def test_prefill_elsewhere_has_no_padding(dtype: torch.dtype, architecture: str):
    model = recording_model(dtype, architecture)
    prefill(model, torch.zeros(1, 41, dtype=torch.int64), model.new_kv_cache(1))
    assert model.read == [41]


# ---- texts


@pytest.fixture(scope="module")
def language_model(pretrained_run: Path) -> LanguageModel:
    return load(pretrained_run)


TEXTS = ["return the", "", "a", "a long text " * 30, "return the", "the file is not"]


@pytest.mark.parametrize("how", [{"temperature": 0}, {"seed": 5, "top_k": 20}], ids=["greedy", "sampled"])
def test_a_list_of_texts_gives_the_same_as_each_alone_with_its_seed(how: Any, language_model: LanguageModel):
    together = language_model.generate(TEXTS, max_tokens=50, **how)
    own = [how | {"seed": how["seed"] + i} if "seed" in how else how for i in range(len(TEXTS))]
    assert together == [
        language_model.generate(text, max_tokens=50, **one) for text, one in zip(TEXTS, own, strict=True)
    ]
    assert (together[0] == together[4]) == ("seed" not in how)


def test_more_texts_than_fit_a_batch_come_back_in_order(language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    at_once = language_model.generate(TEXTS, max_tokens=8, seed=0)
    monkeypatch.setattr("gpt1.inference.language_model.MAX_PARALLEL_TEXTS", 2)
    assert language_model.generate(TEXTS, max_tokens=8, seed=0) == at_once
    assert language_model.generate([]) == []
    assert language_model.generate(TEXTS[:1], max_tokens=8, seed=0) == at_once[:1]


def test_generated_text_is_the_prompt_followed_by_new_tokens(language_model: LanguageModel):
    ids = torch.tensor([language_model.tokenizer.encode("return the")])
    expected = language_model.gpt.generate(ids, 40, temperature=0)[0].tolist()
    assert language_model.generate("return the", max_tokens=40, temperature=0) == language_model.tokenizer.decode(
        expected
    )


def test_the_same_seed_generates_the_same_text(language_model: LanguageModel):
    written = [language_model.generate("the", max_tokens=30, seed=seed) for seed in (1, 1, 2)]
    assert written[0] == written[1] != written[2]


def test_max_tokens_0_returns_the_prompt(language_model: LanguageModel):
    assert language_model.generate("Just this.", max_tokens=0) == "Just this."


def test_the_original_pipeline_puts_a_space_between_prompt_and_text(pretrained_run: Path, prose: list[str]):
    tokenizer = Tokenizer.train(prose, 300, "original")
    model = LanguageModel(GPT.from_pretrained(pretrained_run / "model"), tokenizer)
    assert model.generate("Return the", max_tokens=0) == "Return the"
    written = model.generate("Return the", max_tokens=10, temperature=0)
    assert written.startswith("Return the ")
    assert written.removeprefix("Return the ").strip()


# ---- the command


def test_texts_from_the_command_line_and_a_file_are_printed_separately(workspace: Path, tmp_path: Path, run_cli: Any):
    run, how = str(workspace / "runs/books"), ["--max-tokens", "5", "--temperature", "0"]
    (tmp_path / "prompts.txt").write_text("the file\n\n  a list\n", encoding="utf-8")
    answer = run_cli("generate", run, "return", "--prompts", str(tmp_path / "prompts.txt"), *how)
    alone = [run_cli("generate", run, text, *how).stdout for text in ("return", "the file", "  a list")]
    assert answer.stdout == "".join(f"--- text {i} of 3\n{text}" for i, text in enumerate(alone, 1))
    found = json.loads(run_cli("generate", run, "return", "the file", *how, "--json").stdout)
    assert [(one["prompt"], one["text"] + "\n") for one in found] == [("return", alone[0]), ("the file", alone[1])]


def test_prompts_can_come_from_standard_input(workspace: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch):
    given_lines = io.TextIOWrapper(io.BufferedReader(io.BytesIO("the file\r\n☃".encode())))  # type: ignore[arg-type]
    monkeypatch.setattr("sys.stdin", given_lines)
    answer = run_cli("generate", str(workspace / "runs/books"), "--prompts", "-", "--max-tokens", "1", "--json")
    assert [one["prompt"] for one in json.loads(answer.stdout)] == ["the file", "☃"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "TEXT is missing"),
        (["--prompts", "missing.txt"], "missing.txt does not exist"),
        (["--prompts", "empty.txt"], "TEXT is missing"),
        (["--prompts", "latin.txt"], "latin.txt is not UTF-8"),
        (["--prompts", "binary.txt"], "binary.txt is a binary file"),
    ],
)
def test_prompts_that_cannot_be_read_are_an_error(
    words: list[str], error: str, workspace: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(workspace)
    answer = run_cli("generate", "runs/books", *words)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert error in answer.stderr


def test_weights_cast_once_give_the_same_as_weights_cast_for_each_token():
    model = GPT(GPTConfig(50, n_layer=2, n_head=2, n_embd=16, context=12)).eval()
    assert for_inference(model) is model
    model.activation_dtype = torch.bfloat16
    ids = torch.randint(0, 50, (2, 12))
    cast = for_inference(model)
    assert all(weight.dtype == torch.bfloat16 for weight in cast.state_dict().values())
    with torch.inference_mode():
        torch.testing.assert_close(cast(ids), model(ids), atol=0.02, rtol=0.02)
    assert all(weight.dtype == torch.float32 for weight in model.state_dict().values())


def test_a_cast_model_is_saved_with_its_rounded_weights(tmp_path: Path):
    model = make_tiny_model(12)
    model.activation_dtype = torch.bfloat16
    for_inference(model).save(tmp_path)
    again = GPT.from_pretrained(tmp_path).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(again[name].float(), weight.bfloat16().float()), name
