"""EleutherAI's evaluation harness with its `local-completions` model, against a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running_server import server_thread

from gpt1.inference.convert import export_model
from gpt1.inference.predictor import load

pytest.importorskip("lm_eval", reason="needs gpt1[eval]")
pytest.importorskip("tenacity", reason="needs lm-eval[api]")

PAIRS = [("the list of", " names"), ("Return the first", " string of the list"), ("a", "b"), ("the file is", " the")]


@torch.no_grad()
def test_log_likelihoods_and_texts_of_the_harness_are_those_of_the_model(workspace: Path, tmp_path: Path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = load(workspace / "runs/books")
    export_model("huggingface", workspace / "runs/books", tmp_path / "hf")
    with server_thread([workspace / "runs/books"]) as server:
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        options = {"model": "books", "tokenizer": str(tmp_path / "hf"), "tokenizer_backend": "huggingface"}
        harness: Any = LocalCompletionsAPI(base_url=url, batch_size=2, max_length=32, **options)
        found = harness.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)])
        until = ("the file", {"until": ["zzz"], "max_gen_toks": 8, "temperature": 0})
        (text,) = harness.generate_until([Instance("generate_until", {}, until, 0)])
    for (context, continuation), (logprob, greedy) in zip(PAIRS, found, strict=True):
        ids, first = model.tokenizer.encode(context + continuation), len(model.tokenizer.encode(context))
        rows = model.gpt(torch.tensor([ids]))[0, first - 1 : -1].log_softmax(-1)
        own = rows.gather(1, torch.tensor(ids[first:])[:, None])[:, 0]
        assert logprob == pytest.approx(float(own.sum()), abs=1e-4)
        assert greedy == (rows.argmax(-1).tolist() == ids[first:])
    assert "the file" + text == model.generate("the file", 8, 0.0)
