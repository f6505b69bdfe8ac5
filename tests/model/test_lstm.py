"""The LSTM of table 5: equal to torch's layer, with the interface of the Transformer, in both stages."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.inference.evaluate import evaluate
from gpt1.inference.predictor import load
from gpt1.kernels.kv_cache import KVCache
from gpt1.model.gpt import GPT
from gpt1.tables.table import Table
from gpt1.training.finetune import finetune
from gpt1.training.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("no_reports")

CONFIG = GPTConfig(40, 1, 1, 16, context=24, dropout=0.0, architecture="lstm", lstm_units=32)
SMALL: dict[str, Any] = {"model": "lstm", "n_embd": 32, "lstm_units": 48, "context": 32, "batch_size": 8} | {
    "precision": "fp32",
    "device": "cpu",
    "eval_windows": 8,
}


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(CONFIG).eval()


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(40, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(corpus, out=tmp_path_factory.mktemp("lstm") / "run", steps=60, peak_lr=1e-2, **SMALL)


def test_the_lstm_equals_torchs_with_a_projection_and_the_tied_output_matrix(model: GPT, ids: Tensor) -> None:
    ours: Any = model.blocks[0]
    reference = nn.LSTM(16, 32, batch_first=True)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(ours.weight_in)
        reference.weight_hh_l0.copy_(ours.weight_state)
        reference.bias_ih_l0.copy_(ours.bias)
        reference.bias_hh_l0.zero_()
        states = reference(model.tokens.weight[ids])[0] @ ours.out.T + ours.out_bias
        torch.testing.assert_close(model(ids), states @ model.tokens.weight.T, atol=1e-6, rtol=1e-5)


def test_the_recurrence_on_a_cpu_equals_torchs_lstm() -> None:
    layer: Any = GPT(CONFIG).double().blocks[0]
    x = torch.randn(7, 3, 16, dtype=torch.float64, requires_grad=True)
    before = (torch.randn(3, 32, dtype=torch.float64), torch.randn(3, 32, dtype=torch.float64))
    weights = (x, layer.weight_in, layer.weight_state, layer.bias)
    for start in (None, before):
        (ours, cell), (theirs, their_cell) = (steps(x, start) for steps in (layer.run_recurrence, layer.run_fused))
        torch.testing.assert_close((ours, cell), (theirs, their_cell))
        gradients = [torch.autograd.grad(y.square().sum(), weights) for y in (ours, theirs)]
        torch.testing.assert_close(*gradients)


def test_the_papers_layer_has_2048_units_and_the_config_knows_its_parameters() -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig(40478, 1, 1, 768, architecture="lstm"))
    assert model.blocks[0].weight_state.shape == (4 * 2048, 2048)
    assert sum(p.numel() for p in model.parameters()) == model.config.n_parameters


def test_a_later_token_changes_no_earlier_state(model: GPT, ids: Tensor) -> None:
    changed = ids.clone()
    changed[:, 12] = (ids[:, 12] + 1) % 40
    difference = (model(ids) - model(changed)).abs().amax((0, 2))
    assert difference[:12].max() == 0
    assert difference[12:].min() > 0


def test_prefill_in_parts_equals_prefill_at_once(model: GPT, ids: Tensor) -> None:
    cache = KVCache(CONFIG, len(ids), model.tokens.weight)
    parts = [model.hidden_states(part, kv_cache=cache) for part in torch.split(ids, 7, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model.hidden_states(ids), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, GPTConfig(40, 2, 2, 16, context=24)], ids=["lstm", "transformer"])
def test_one_cache_can_be_continued_in_several_ways(config: GPTConfig, ids: Tensor) -> None:
    torch.manual_seed(0)
    model = GPT(config).eval()
    cache = KVCache(config, 1, model.tokens.weight)
    model.hidden_states(ids[:1, :9], kv_cache=cache)
    several = model.hidden_states(ids[:, 9:], kv_cache=cache.repeat(3))
    plain = model.hidden_states(torch.cat([ids[:1, :9].expand(3, -1), ids[:, 9:]], dim=1))
    torch.testing.assert_close(several, plain[:, 9:], atol=1e-5, rtol=1e-4)
    assert cache.length == 9


def test_an_lstm_learns_in_stage_one_and_can_be_fine_tuned(run: Path, table: Table, tmp_path: Path) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results["validation"]["loss"] < 0.95 * math.log(300)  # that of an untrained model
    task: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label", "epochs": 1.0}
    for train in ("all", "head"):
        tuned = finetune(table, from_=run, out=tmp_path / train, train=train, precision="fp32", **task)
        assert evaluate(tuned, table)["rows"] == len(table)
    assert load(run).generate("the", max_tokens=5, temperature=0) == load(run).generate(
        "the", max_tokens=5, temperature=0
    )


def test_a_saved_lstm_loads_as_the_same_model(run: Path, tmp_path: Path, ids: Tensor) -> None:
    model = GPT.from_pretrained(run / "model")
    assert model.config.architecture == "lstm"
    model.save(tmp_path / "copy")
    assert torch.equal(GPT.from_pretrained(tmp_path / "copy")(ids), model(ids))
    config = json.loads((tmp_path / "copy" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"lstm_units": 7}), encoding="utf-8")
    with pytest.raises(UserError, match="weight_in has shape"):
        GPT.from_pretrained(tmp_path / "copy")


def test_pre_training_can_start_from_an_lstm_and_keeps_its_shape(run: Path, corpus: Path, tmp_path: Path) -> None:
    further = pretrain(corpus, from_=run, out=tmp_path / "more", steps=1, eval_windows=8, precision="fp32")
    assert GPT.from_pretrained(further / "model").config.lstm_units == 48
    with pytest.raises(UserError, match="keeps its shape"):
        pretrain(corpus, from_=run, out=tmp_path / "other", lstm_units=64)


def test_a_model_folder_without_an_architecture_still_loads(pretrained_run: Path, tmp_path: Path) -> None:
    model = GPT.from_pretrained(pretrained_run / "model")
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["architecture"], config["lstm_units"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert GPT.from_pretrained(tmp_path).config == model.config
