"""The loop of both stages, on a model of one layer: resuming, stopping, choosing the best, running out of things."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt1.config import FinetuneConfig, TrainingConfig
from gpt1.errors import GPT1Error, Interrupted, ResourceError, UserError
from gpt1.objectives import Losses
from gpt1.training import checkpoints
from gpt1.training.loop import Outcome, Stage, Update, train
from gpt1.training.progress import Fanout, MetricsFile, Silent

STEPS = 23
CONFIG = FinetuneConfig(peak_lr=0.05, warmup=3, checkpoint_every=1, keep=100)
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = X @ torch.randn(6, 1, generator=torch.Generator().manual_seed(1))


class Noted(Silent):
    """Remembers what it was told, and may act on a record."""

    def __init__(self, act: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
        self.said: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.act = act

    def say(self, line: str) -> None:
        self.said.append(line)

    def record(self, **values: Any) -> None:
        self.records.append(values)
        self.act(values)


def stage(**changes: Any) -> Stage:
    """A linear model with dropout, two pieces an update, held-out figures every five updates."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 1))

    def objective(rows: Tensor) -> Losses:
        loss = ((model(X[rows]) - Y[rows]) ** 2).sum() / 8
        return Losses(loss, {"loss": loss.detach()})

    def update(step: int) -> Update:
        rows = (torch.arange(8) + 8 * step) % len(X)
        return Update(step // 5, [rows[:5], rows[5:]], 8)

    def evaluate() -> dict[str, float]:
        loss = float(((model(X) - Y) ** 2).mean())
        return {"loss": loss, "score": -loss}

    made = Stage(
        title="a line through points",
        model=model,
        objective=objective,
        update=update,
        steps=STEPS,
        evaluate=evaluate,
        evaluate_after=lambda done: done % 5 == 0 or done == STEPS,
        fingerprints={"corpus": "c", "tokenizer": "t"},
    )
    return replace(made, **changes)


def run(
    made: Stage, folder: Path, resume: bool = False, progress: Noted | None = None, config: TrainingConfig = CONFIG
) -> tuple[Outcome, dict[str, Tensor], Noted]:
    folder.mkdir(exist_ok=True)
    progress = progress or Noted()
    metrics = MetricsFile(folder / "metrics.jsonl")
    outcome = train(made, config, folder, Fanout([progress, metrics]), metrics, resume)
    return outcome, {name: p.detach().clone() for name, p in made.model.named_parameters()}, progress


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_s"} for line in found]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("whole")
    outcome, weights, _ = run(stage(), folder)
    return folder, outcome, weights


def stopped_after(step: int, whole: Path, folder: Path) -> Path:
    """The folder as a process left it that was killed after this checkpoint and before the next one."""
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    for other in checkpoints.steps(folder / "checkpoints"):
        if other > step:
            shutil.rmtree(checkpoints.at(folder / "checkpoints", other))
    return folder


def assert_same_outcome(found: Outcome, expected: Outcome) -> None:
    assert replace(found, seconds=0) == replace(expected, seconds=0)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_resumed_after_any_checkpoint_gives_the_same_bits_and_the_same_metrics(step: int, whole, tmp_path: Path):
    folder, outcome, weights = whole
    resumed, found, progress = run(stage(), stopped_after(step, folder, tmp_path), resume=True)
    assert progress.said == [f"resuming after update {step:,}"]
    assert same(found, weights)
    assert lines(tmp_path) == lines(folder)
    assert_same_outcome(resumed, outcome)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(whole, tmp_path: Path):
    folder, outcome, weights = whole
    resumed, found, _ = run(stage(), stopped_after(0, folder, tmp_path), resume=True)
    assert same(found, weights)
    assert lines(tmp_path) == lines(folder)
    assert_same_outcome(resumed, outcome)


def test_a_line_that_a_killed_process_was_writing_is_dropped(whole, tmp_path: Path):
    folder, _, _ = whole
    stopped_after(12, folder, tmp_path)
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[: len(text) // 2])
    run(stage(), tmp_path, resume=True)
    assert lines(tmp_path)[-3:] == lines(folder)[-3:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", [10, 20])
def test_a_stopped_run_is_saved_and_goes_on_to_the_same_bits(number: int, when: int, whole, tmp_path: Path):
    folder, _, weights = whole

    def stop(record: dict[str, Any]) -> None:
        if record["split"] == "train" and record["step"] == when:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    config = replace(CONFIG, checkpoint_every=0)  # only what the signal asks for
    never = {"evaluate_after": lambda done: done == STEPS}
    with pytest.raises(Interrupted, match=f"stopped after update {when} of {STEPS}") as stopped:
        run(stage(**never), tmp_path, progress=Noted(stop), config=config)
    assert stopped.value.exit_code == 130
    assert "--resume" in stopped.value.fix
    assert signal.getsignal(number) is before
    assert checkpoints.steps(tmp_path / "checkpoints") == [when]
    _, found, _ = run(stage(**never), tmp_path, resume=True, config=config)
    assert same(found, weights)
    assert [line for line in lines(tmp_path) if line["split"] == "train"] == [
        line for line in lines(folder) if line["split"] == "train"
    ]


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path):
    def stop_twice(rows: Tensor) -> Losses:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    with pytest.raises(KeyboardInterrupt):
        run(stage(objective=stop_twice), tmp_path)


def test_the_newest_checkpoint_is_refused_by_name_when_damaged_and_the_one_before_is_taken(whole, tmp_path: Path):
    folder, outcome, weights = whole
    stopped_after(12, folder, tmp_path)
    damaged = checkpoints.at(tmp_path / "checkpoints", 12) / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 4
    damaged.write_bytes(content)
    resumed, found, progress = run(stage(), tmp_path, resume=True)
    assert str(damaged) in progress.said[0]
    assert progress.said[1] == "resuming after update 11"
    assert same(found, weights)
    assert_same_outcome(resumed, outcome)


@pytest.mark.parametrize("name", ["corpus", "tokenizer"])
def test_a_run_is_not_resumed_with_another_corpus_or_tokenizer(name: str, whole, tmp_path: Path):
    stopped_after(12, whole[0], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = stage(fingerprints={"corpus": "c", "tokenizer": "t"} | {name: "other"})
    with pytest.raises(UserError, match=f"was trained with another {name}"):
        run(other, tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_best_checkpoint_stays_and_its_weights_are_the_result(tmp_path: Path):
    scores = iter([0.1, 0.7, 0.3, 0.7, 0.2])
    made = stage(evaluate=lambda: {"score": next(scores), "loss": 1.0}, main="score")
    outcome, weights, _ = run(made, tmp_path, config=replace(CONFIG, keep=1, checkpoint_every=0))
    assert (outcome.best, outcome.best_value) == (10, 0.7)
    assert [round(record["score"], 1) for record in outcome.history] == [0.1, 0.7, 0.3, 0.7, 0.2]
    assert checkpoints.steps(tmp_path / "checkpoints") == [10, STEPS]
    assert same(weights, checkpoints.load(checkpoints.at(tmp_path / "checkpoints", 10)).weights)


def test_of_equal_scores_the_one_with_the_lower_loss_is_the_best(tmp_path: Path):
    figures = iter([(0.7, 2.0), (0.7, 1.0), (0.7, 1.5), (0.6, 0.1), (0.7, 1.0)])
    made = stage(evaluate=lambda: dict(zip(("score", "loss"), next(figures), strict=True)), main="score")
    assert run(made, tmp_path)[0].best == 10


def test_without_a_held_out_figure_to_choose_by_the_last_weights_are_the_result(whole):
    folder, outcome, weights = whole
    assert outcome.best == 0
    assert same(weights, checkpoints.load(checkpoints.at(folder / "checkpoints", STEPS)).weights)


def test_held_out_figures_are_measured_without_dropout_and_training_goes_on_with_it(tmp_path: Path):
    modes: list[tuple[str, bool]] = []
    made = stage()
    evaluate, objective = made.evaluate, made.objective

    def watched_evaluate() -> dict[str, float]:
        modes.append(("evaluate", made.model.training))
        return evaluate()

    def watched_objective(rows: Tensor) -> Losses:
        modes.append(("objective", made.model.training))
        return objective(rows)

    run(replace(made, evaluate=watched_evaluate, objective=watched_objective), tmp_path)
    assert set(modes) == {("evaluate", False), ("objective", True)}
    assert not made.model.training


def test_an_update_in_pieces_is_the_update_in_one(tmp_path: Path):
    found = []
    for size in (1, 3, 8):
        made = stage()
        made.model[0].p = 0.0  # type: ignore[index, operator, union-attr]
        update = made.update

        def cut(step: int, size: int = size, update: Any = update) -> Update:
            rows = torch.cat(list(update(step).pieces))
            return Update(0, torch.split(rows, size), 8)

        found.append(run(replace(made, update=cut), tmp_path / str(size), config=replace(CONFIG, optimizer="sgd"))[1])
    for weights in found[1:]:
        for name, value in weights.items():
            torch.testing.assert_close(value, found[0][name], rtol=0, atol=1e-5)


def test_a_line_of_metrics_is_the_mean_over_the_updates_since_the_last(tmp_path: Path):
    value = iter(range(1, 100))

    def objective(rows: Tensor) -> Losses:
        loss = made.model[1].bias.sum() * 0 + next(value) / 2  # type: ignore[index, union-attr, operator]
        return Losses(loss, {"loss": loss.detach()})

    made = stage()
    made = replace(made, objective=objective)
    outcome, _, _ = run(made, tmp_path)
    means = [(line["step"], line["loss"]) for line in lines(tmp_path) if line["split"] == "train"]
    # Update i adds the pieces 2i + 1 and 2i + 2, halved: 2i + 1.5.
    assert means == [(10, 10.5), (20, 30.5), (23, 43.5)]
    assert outcome.train_loss == 43.5


def test_frozen_weights_are_neither_trained_nor_stored(tmp_path: Path):
    made = stage()
    made.model[1].bias.requires_grad_(False)  # type: ignore[index, union-attr]
    before = made.model[1].bias.clone()  # type: ignore[index, union-attr, operator]
    _, weights, _ = run(made, tmp_path)
    assert torch.equal(weights["1.bias"], before)
    stored = checkpoints.load(checkpoints.at(tmp_path / "checkpoints", STEPS))
    assert set(stored.weights) == {"1.weight"}


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path: Path):
    def objective(rows: Tensor) -> Losses:
        loss = made.model[1].bias.sum() * float("nan")  # type: ignore[index, union-attr, operator]
        return Losses(loss, {"loss": loss.detach()})

    made = replace(stage(), objective=objective)
    with pytest.raises(GPT1Error, match="diverged") as ended:
        run(made, tmp_path)
    assert "--peak-lr" in ended.value.fix


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
    ],
    ids=["cpu", "gpu", "python"],
)
@pytest.mark.parametrize(
    ("together", "recompute", "advice"),
    [
        (1, False, "--recompute"),
        (2, False, "--micro-batch 1 "),
        (9, False, "--micro-batch 4 "),
        (9, True, "--micro-batch 4 "),
        (1, True, "a smaller model"),
    ],
)
def test_out_of_memory_names_the_setting_and_the_size_to_try(
    error: BaseException, together: int, recompute: bool, advice: str, tmp_path: Path
):
    def objective(rows: Tensor) -> Losses:
        raise error

    with pytest.raises(ResourceError, match="out of memory") as ended:
        run(stage(objective=objective, together=together), tmp_path, config=replace(CONFIG, recompute=recompute))
    assert advice in ended.value.fix
    assert not (recompute and "--recompute" in ended.value.fix)
    assert ended.value.exit_code == 1


def test_another_error_stays_what_it_is(tmp_path: Path):
    def objective(rows: Tensor) -> Losses:
        raise RuntimeError("a mistake in the code")

    with pytest.raises(RuntimeError, match="a mistake in the code"):
        run(stage(objective=objective), tmp_path)


def test_a_full_disk_is_told_and_the_checkpoints_before_it_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = checkpoints.save

    def save(folder: Path, step: int, *rest: Any) -> Path:
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        return original(folder, step, *rest)

    monkeypatch.setattr(checkpoints, "save", save)
    with pytest.raises(ResourceError, match="the disk is full") as ended:
        run(stage(), tmp_path)
    assert "--resume" in ended.value.fix
    assert checkpoints.steps(tmp_path / "checkpoints") == [1, 2, 3]
