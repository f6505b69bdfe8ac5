"""The engine: the same text alone and in a batch, cancellation, a bounded queue, rows batched by tokens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from task_models import MakePredictor

from gpt1.errors import GPT1Error, ResourceError, UserError
from gpt1.inference.predictor import LanguageModel, TaskPredictor, load
from gpt1.model.head import Head, TaskModel
from gpt1.serving import engine as engine_module
from gpt1.serving.endpoints import classify
from gpt1.serving.engine import Engine, GeneratedToken, QueueFull
from gpt1.serving.model_thread import ModelThread
from gpt1.serving.schemas import ClassifyRequest
from gpt1.serving.settings import ServeConfig
from gpt1.tasks.kinds import KINDS
from gpt1.tasks.targets import Answers, Classes, OrdinalBins, StandardizedNumber, Target

T = TypeVar("T")
PROMPTS = ["the file", "a list of", "the", "return the first name of the", "option", "", "string " * 8]


def run_coroutine(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


@pytest.fixture(scope="module")
def model(pretrained_run: Path) -> LanguageModel:
    return load(pretrained_run)


@pytest.fixture
def engine(model: LanguageModel) -> Iterator[Engine]:
    engine = Engine(model, max_batch=3)
    yield engine
    engine.close()


@pytest.fixture
def task_engine(workspace: Path) -> Iterator[Engine]:
    engine = Engine(load(workspace / "runs/reviews"), max_batch=2, label_tokens=64, max_queue=501)
    yield engine
    engine.close()


async def generate_tokens(engine: Engine, prompt: Any, **options: Any) -> list[GeneratedToken]:
    return [token async for token in engine.generate(prompt, **options)]


async def generate_text(engine: Engine, prompt: Any, **options: Any) -> str:
    return "".join(token.text for token in await generate_tokens(engine, prompt, **options))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_is_the_same_alone_and_in_a_batch(engine: Engine, temperature: float):
    async def generate_all() -> tuple[list[str], list[str]]:
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": 12, "logprobs": 2}
        together = await asyncio.gather(*(generate_tokens(engine, p, seed=i, **options) for i, p in enumerate(PROMPTS)))
        alone = [await generate_tokens(engine, p, seed=i, **options) for i, p in enumerate(PROMPTS)]
        return together, alone  # type: ignore[return-value]

    together, alone = run_coroutine(generate_all())
    assert together == alone


def test_a_text_is_that_of_generate_with_the_same_seed(engine: Engine, model: LanguageModel):
    for seed, prompt in enumerate(PROMPTS):
        text = run_coroutine(generate_text(engine, prompt, max_tokens=15, seed=seed, top_k=20))
        assert prompt + text == model.generate(prompt, 15, 1.0, 20, seed=seed)


def test_without_a_seed_texts_differ(engine: Engine):
    async def generate_twice() -> list[str]:
        return [await generate_text(engine, "the", max_tokens=20) for _ in range(2)]

    first, second = run_coroutine(generate_twice())
    assert first != second


def test_the_last_token_says_why_the_text_ends(engine: Engine):
    tokens = run_coroutine(generate_tokens(engine, "the file", max_tokens=8, temperature=0))
    assert [token.finish_reason for token in tokens] == [None] * 7 + ["length"]
    whole = "".join(token.text for token in tokens)
    stop = whole[3:5]
    tokens = run_coroutine(generate_tokens(engine, "the file", max_tokens=8, temperature=0, stop=[stop]))
    assert tokens[-1].finish_reason == "stop"
    assert "".join(token.text for token in tokens) == whole[: whole.find(stop)]


def test_a_text_that_nobody_reads_any_more_leaves_the_batch(engine: Engine):
    async def leave_early() -> str:
        stream = engine.generate("the", max_tokens=100_000)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        readers = [asyncio.create_task(generate_text(engine, "a", max_tokens=100_000)) for _ in range(5)]
        await asyncio.sleep(0.05)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        return await generate_text(engine, "the", max_tokens=3, temperature=0)

    assert run_coroutine(leave_early())
    assert engine.accepted == 0
    assert not engine.texts.running
    assert not engine.texts.waiting


def test_the_queue_is_bounded_and_recovers(model: LanguageModel):
    engine = Engine(model, max_batch=1, max_queue=2)

    async def overload() -> None:
        first = asyncio.create_task(generate_text(engine, "the", max_tokens=40))
        second = asyncio.create_task(generate_text(engine, "a", max_tokens=2))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 of 2 places"):
            await generate_text(engine, "too many", max_tokens=1)
        with pytest.raises(UserError, match="3 texts or rows exceed the queue of 2 places"), engine.admit(3):
            pass  # trying again later would never help
        await asyncio.gather(first, second)
        assert await generate_text(engine, "again", max_tokens=1, temperature=0)

    run_coroutine(overload())
    engine.close()


def test_the_event_loop_runs_while_the_model_does(engine: Engine):
    async def count() -> int:
        work = asyncio.create_task(generate_tokens(engine, "the", max_tokens=30))
        turns = 0
        while not work.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert run_coroutine(count()) > 30


def test_settings_out_of_range_are_errors_of_the_user(engine: Engine):
    with pytest.raises(UserError, match="temperature -1"):
        run_coroutine(generate_text(engine, "the", temperature=-1))


def test_a_step_that_runs_out_of_memory_fails_its_texts_and_the_next_ones_run(engine: Engine, monkeypatch):
    def raise_out_of_memory(work: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.texts.batch, "hidden_states", raise_out_of_memory)
        with pytest.raises(ResourceError, match="out of memory"):
            run_coroutine(generate_text(engine, "the"))
    assert run_coroutine(generate_text(engine, "the", max_tokens=2, temperature=0))


def test_closing_fails_what_still_waits(model: LanguageModel):
    engine = Engine(model, max_batch=1)

    async def close_early() -> None:
        texts = [asyncio.create_task(generate_text(engine, "the", max_tokens=100_000)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(engine.close)
        for result in await asyncio.gather(*texts, return_exceptions=True):
            assert isinstance(result, GPT1Error)

    run_coroutine(close_early())


def test_a_closed_engine_refuses_work_instead_of_letting_it_wait(task_engine: Engine):
    rows = task_engine.encode_rows(["the file is valid"])
    task_engine.close()
    for work in (
        generate_text(task_engine, [1, 2]),
        task_engine.predict_encoded(rows),
        task_engine.call(lambda: 1),
    ):
        with pytest.raises(GPT1Error, match="the engine was closed"):
            run_coroutine(work)


def test_engines_can_share_the_thread(model: LanguageModel, workspace: Path):
    thread = ModelThread()
    before = threading.active_count()
    engines = [Engine(model, thread=thread), Engine(load(workspace / "runs/reviews"), thread=thread)]

    async def run_both() -> list[Any]:
        return await asyncio.gather(
            generate_text(engines[0], "the", max_tokens=5), engines[1].predict(["the file is valid"])
        )

    text, predictions = run_coroutine(run_both())
    assert text
    assert predictions[0]["prediction"] in ("yes", "no")
    assert threading.active_count() <= before + 4  # two tokenizers, and asyncio's own
    for engine in engines:
        engine.close()
    thread.close()


# ---- rows


def test_rows_have_the_predictions_of_the_model(task_engine: Engine, table: Any):
    rows = [{"text": row["text"]} for row in table.rows]

    async def several_requests() -> list[Any]:
        return await asyncio.gather(*(task_engine.predict(rows[i : i + 5]) for i in range(0, len(rows), 5)))

    found = [prediction for part in run_coroutine(several_requests()) for prediction in part]
    expected = task_engine.task.predict(rows)
    assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["probability_yes"] == pytest.approx(theirs["probability_yes"], abs=1e-5)


KINDS_OF_TASKS: dict[str, tuple[str, dict[str, str], Target]] = {
    "classification": ("classification", {"text": "t", "label": "l"}, Classes(("a", "b", "c"))),
    "entailment": ("entailment", {"premise": "t", "hypothesis": "u", "label": "l"}, Classes(("no", "yes"))),
    "scored similarity": ("similarity", {"text_a": "t", "text_b": "u", "label": "l"}, OrdinalBins(0, 5)),
    "choice": ("choice", {"context": "t", "choices": "a", "label": "l"}, Answers(3)),
    "regression": ("regression", {"text": "t", "label": "l"}, StandardizedNumber(3.0, 2.0)),
}


@pytest.mark.parametrize("name", KINDS_OF_TASKS)
def test_rows_of_every_kind_of_task_have_the_same_predictions_in_any_batch(model: LanguageModel, name: str):
    kind, columns, target = KINDS_OF_TASKS[name]
    torch.manual_seed(0)
    gpt = deepcopy(model.gpt)
    gpt.add_special_tokens()
    head = Head(gpt.config.n_embd, target.outputs, KINDS[kind].multiple_choice)
    torch.nn.init.normal_(head.linear.weight, std=0.3)
    task = {"kind": kind, "columns": columns, "temperature": 1.5}
    engine = Engine(TaskPredictor(TaskModel(gpt, head).eval(), model.tokenizer, task, target), label_tokens=100)
    rows = [{"t": f"the file {i}", "u": "a list", "a": ["one", "two", "none"][: 2 + i % 2]} for i in range(9)]

    async def separate_requests() -> list[Any]:
        return await asyncio.gather(*(engine.predict([row]) for row in rows))

    found = [prediction for part in run_coroutine(separate_requests()) for prediction in part]
    for ours, theirs in zip(found, engine.task.predict(rows), strict=True):
        assert ours.keys() == theirs.keys()
        assert list(ours.values()) == pytest.approx(list(theirs.values()), abs=1e-5)
    engine.close()


def test_a_step_labels_rows_of_several_requests_and_at_most_its_tokens(task_engine: Engine):
    facts: list[Any] = []
    assert task_engine.labels is not None
    task_engine.labels.observe = facts.append

    async def send_requests() -> None:
        await asyncio.gather(*(task_engine.predict([f"the file number {i}"] * 3) for i in range(8)))

    run_coroutine(send_requests())
    assert sum(fact.sequences for fact in facts) == 24
    assert max(fact.sequences for fact in facts) > 3
    assert all(fact.computed_tokens <= 64 or fact.sequences == 1 for fact in facts)


def test_rows_of_a_request_that_was_cancelled_are_not_computed(task_engine: Engine):
    facts: list[Any] = []
    assert task_engine.labels is not None
    task_engine.labels.observe = facts.append

    async def cancel() -> list[dict[str, Any]]:
        many = asyncio.create_task(task_engine.predict(["the file is valid"] * 500))
        while not facts:
            await asyncio.sleep(0)
        many.cancel()
        return await task_engine.predict(["the list is broken"])

    assert len(run_coroutine(cancel())) == 1
    assert task_engine.accepted == 0
    assert sum(fact.sequences for fact in facts) < 500


@pytest.mark.parametrize("name", ["classification", "entailment", "choice", "regression"])
def test_explanations_are_those_of_the_model(make_predictor: MakePredictor, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_module, "EXPLAINED_AT_ONCE", 2)
    task = make_predictor(name)
    rows = [
        {"t": "one two three", "u": "four, five", "a": ["six seven", "eight"]},
        {"t": "x", "u": "y", "a": ["z", ""]},
    ]
    engine = Engine(task)
    found, expected = run_coroutine(engine.explain(rows)), task.explain(rows)
    for one, other in zip(found, expected, strict=True):
        assert one["explained"] == other["explained"]
        assert one["value"] == pytest.approx(other["value"], abs=1e-5)
        for word, same in zip(one["words"], other["words"], strict=True):
            assert word == {**same, "contribution": pytest.approx(same["contribution"], abs=1e-5)}
    engine.close()


def test_a_long_explanation_lets_others_pass_and_ends_when_nobody_waits_for_it(task_engine: Engine):
    async def ask_meanwhile() -> None:
        request = ClassifyRequest(rows=["the file is valid " * 2_000], explain=True)
        explanation = asyncio.create_task(classify(request, "reviews", task_engine, ServeConfig()))
        await asyncio.sleep(0.2)
        assert await generate_text(task_engine, "the", max_tokens=2)
        assert len(await task_engine.predict(["the list is broken"])) == 1
        assert not explanation.done()
        explanation.cancel()
        await asyncio.sleep(0.2)
        assert task_engine.labels
        assert not task_engine.labels.has_work()

    run_coroutine(ask_meanwhile())


def test_a_row_without_the_columns_fails_alone(task_engine: Engine):
    async def run_both() -> list[Any]:
        good, bad = task_engine.predict(["the file is valid"]), task_engine.predict([{"other": "x"}])
        return await asyncio.gather(good, bad, return_exceptions=True)

    good, bad = run_coroutine(run_both())
    assert good[0]["prediction"]
    assert isinstance(bad, UserError)
    with pytest.raises(UserError, match="not fine-tuned"):
        run_coroutine(Engine(load_plain(task_engine)).predict(["x"]))


def load_plain(engine: Engine) -> LanguageModel:
    assert isinstance(engine.model, TaskPredictor)
    return LanguageModel(engine.model.gpt, engine.model.tokenizer)


def test_no_rows_have_no_predictions(task_engine: Engine):
    assert run_coroutine(task_engine.predict([])) == []


def test_calls_run_in_the_model_thread_one_after_another(engine: Engine):
    async def call_several() -> list[Any]:
        return await asyncio.gather(
            *(engine.call(threading.current_thread) for _ in range(3)), engine.call(torch.ones, 1)
        )

    *threads, one = run_coroutine(call_several())
    assert {thread.name for thread in threads} == {"gpt1-model"}
    assert one == 1
    with pytest.raises(ZeroDivisionError):
        run_coroutine(engine.call(lambda: 1 // 0))
