"""Label efficiency: fixed test rows, no run repeated, what pre-training is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logged_lines import LoggedLines

from gpt1.errors import GPT1Error, Interrupted, UserError
from gpt1.experiments import label_efficiency as module
from gpt1.experiments.label_efficiency import curve
from gpt1.experiments.label_savings import compare_curves, curve_verdict, labels_to_reach
from gpt1.experiments.result_store import (
    Job,
    ResultStore,
    finetune_or_resume,
    model_facts,
    resolve_training_settings,
    run_jobs,
)
from gpt1.experiments.train_test_data import read_train_test
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.runs.folder import log_once
from gpt1.tables.table import Table, read_table

pytestmark = pytest.mark.usefixtures("no_reports")


TASK: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label"}
QUICK: dict[str, Any] = {"sizes": [4, 16], "seeds": 2, "min_steps": 2, "epochs": 1.0, "precision": "fp32"}
ONE: dict[str, Any] = {"sizes": [24], "seeds": 1, "methods": ["all", "tfidf"]}
score_curves = st.dictionaries(st.sampled_from([8, 16, 32, 64, 128]), st.floats(0, 1), min_size=2)


# --- what pre-training is worth --------------------------------------------------------------------------------------


def test_labels_are_interpolated_over_their_logarithm() -> None:
    scratch = {10: 0.5, 1000: 0.9}
    assert labels_to_reach(0.7, scratch) == pytest.approx(100)
    assert labels_to_reach(0.9, scratch) == pytest.approx(1000)
    assert labels_to_reach(0.4, scratch) == 10
    assert labels_to_reach(0.91, scratch) is None


@given(score_curve=score_curves, score=st.floats(0, 1))
def test_a_higher_score_never_needs_fewer_labels(score_curve: dict[int, float], score: float) -> None:
    needed = labels_to_reach(score, score_curve)
    better = labels_to_reach(min(1.0, score + 0.1), score_curve)
    if needed is None:
        assert better is None
        assert max(score_curve.values()) < score
    else:
        assert min(score_curve) <= needed <= max(score_curve)
        assert better is None or better >= needed


@given(pretrained=score_curves, scratch=score_curves)
def test_all_sizes_of_both_curves_are_compared(pretrained: dict[int, float], scratch: dict[int, float]) -> None:
    found = compare_curves(pretrained, scratch)
    assert [point.labels for point in found] == sorted(set(pretrained) & set(scratch))
    for point in found:
        if point.gap <= 0:
            assert point.labels_needed is not None
            assert point.labels_needed <= point.labels + 1e-6


def test_the_verdict_counts_the_saved_labels() -> None:
    verdict = curve_verdict({10: 0.7, 1000: 0.9}, {10: 0.5, 1000: 0.9}, {10: 0.6, 1000: 0.85}, "accuracy")
    assert verdict[0].startswith("Pre-training is worth about 90 labels here: with 10 labels the pre-trained model has")
    assert "training from scratch needs about 100 labels for this score." in verdict[0]
    assert verdict[1] == "The pre-trained model is ahead of TF-IDF with a linear model at every number of labels."


@given(pretrained=score_curves, scratch=score_curves)
def test_no_verdict_saves_zero_or_fewer_labels(pretrained: dict[int, float], scratch: dict[int, float]) -> None:
    for line in curve_verdict(pretrained, scratch, None, "accuracy"):
        assert "about -" not in line
        assert "about 0" not in line


def test_nothing_is_saved_if_scratch_reaches_the_score_with_fewer_labels() -> None:
    (sentence,) = curve_verdict({8: 0.5, 32: 0.8}, {8: 0.9, 32: 0.6}, None, "accuracy")
    assert sentence.startswith("Pre-training saves no labels here: it scores higher at 32 labels, but")
    assert [module.format_labels_needed(n, 8, 64) for n in (8.0, 20.4, None)] == ["8 or fewer", "20", "more than 64"]


def test_the_verdict_names_the_sizes_where_pre_training_is_worse() -> None:
    scratch, pretrained = {8: 0.5, 64: 0.8}, {8: 0.5, 64: 0.7}
    verdict = curve_verdict(pretrained, scratch, {8: 0.6, 64: 0.6}, "accuracy")
    assert "no gain" in verdict[0]
    assert verdict[1] == "TF-IDF with a linear model is better than the pre-trained model at 8 labels."
    beyond = curve_verdict({8: 0.95, 64: 0.96}, scratch, {8: 0.9, 64: 0.96}, "accuracy")
    assert beyond[0].startswith("Pre-training is worth more than 56 labels here")
    assert beyond[1] == "The pre-trained model is as good as TF-IDF with a linear model at every number of labels."
    (best_with_all,) = curve_verdict({8: 0.5, 64: 0.96}, scratch, None, "accuracy")
    assert best_with_all.startswith("Pre-training is worth more labels than were tried: with 64 labels")


# --- the rows --------------------------------------------------------------------------------------------------------


def test_a_label_with_a_single_row_is_trained_on_and_named(
    shared_data: Path, pretrained_run: Path, tmp_path: Path
) -> None:
    rows = read_table(shared_data / "cases" / "02-curve-single-row-label" / "t.csv")
    found = read_train_test(rows, None, "classification", {"text": "text", "label": "label"}, False, None)
    assert "rare" in {example.label for example in found.training.examples}
    assert "rare" not in {example.label for example in found.test.examples}
    assert any("in training only: 1 label (rare)" in note for note in found.notes)
    assert len(found.test) == round(0.2 * len(rows))
    options: dict[str, Any] = {"sizes": [8], "seeds": 1, "methods": ["all", "tfidf"], "min_steps": 2, "epochs": 1.0}
    curve(rows, from_=pretrained_run, out=tmp_path / "curve", precision="fp32", **options, **TASK)
    assert len(json.loads((tmp_path / "curve" / "cells.json").read_text())["cells"]) == 2


# --- the runs --------------------------------------------------------------------------------------------------------


def test_the_kind_of_a_curve_is_guessed_as_by_finetune(pretrained_run: Path, table: Table, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sizes": [8], "seeds": 1, "methods": ["tfidf"], "precision": "fp32"}
    columns = ["text", "label"]
    rows = Table("t.csv", columns, [{name: row[name] for name in columns} for row in table.rows])
    out = curve(rows, from_=pretrained_run, out=tmp_path / "curve", label="label", **options)
    assert json.loads((out / "cells.json").read_text())["about"]["task"]["kind"] == "classification"


def test_a_curve_measures_every_method_size_and_seed_and_leaves_no_models(
    pretrained_run: Path, table: Table, tmp_path: Path
) -> None:
    out = curve(table, from_=pretrained_run, out=tmp_path / "curve", **(QUICK | {"sizes": [16]}), **TASK)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert set(results["curves"]) == {method.title for method in module.CURVE_METHODS.values()}
    for by_size in results["curves"].values():
        assert list(by_size) == ["16"]
        for spread in by_size.values():
            assert len(spread["values"]) == 2
            assert spread["min"] <= spread["median"] <= spread["max"]
    assert results["verdict"]
    assert not list(out.rglob("*.safetensors"))
    assert results["verdict"][0] in (out / "report.html").read_text(encoding="utf-8")
    markdown = (out / "results.md").read_text(encoding="utf-8")
    assert "| labels | pre-trained, all weights |" in markdown
    assert (out / "curve.svg").exists()


def test_a_sample_that_cannot_be_learned_fails_alone_and_is_named(pretrained_run: Path, tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "abcdef"[i % 6]} for i in range(48)]
    table, lines = Table("t.csv", ["text", "label"], rows), LoggedLines()
    options: dict[str, Any] = {"kind": "multilabel", "text": "text", "label": "label", "methods": ["tfidf", "head"]}
    options |= {"sizes": [4, 24], "seeds": 1, "min_steps": 2, "precision": "fp32", "progress": lines}
    out = curve(table, from_=pretrained_run, out=tmp_path / "curve", **options)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {title: list(by_size) for title, by_size in results["curves"].items()} == {
        "TF-IDF + linear model": ["4", "24"], "pre-trained, head only": ["24"]
    }  # fmt: skip
    (failed,) = results["failed"]
    assert "head only, 4 labels, seed 0: no row of the sample has labels of the test rows: " in failed
    assert failed in lines
    markdown = (out / "results.md").read_text(encoding="utf-8")
    assert f"Not finished: {failed}" in markdown
    assert any(line.startswith("| 4 | ") and line.endswith("| – |") for line in markdown.splitlines())


def test_class_weights_reach_every_method_that_trains_the_model(pretrained_run: Path) -> None:
    for name in ("all", "head", "scratch"):
        assert module.CURVE_METHODS[name].finetune_settings({"class_weight": "a=2"}, 0)["class_weight"] == "a=2"


def test_an_interrupted_curve_resumes_and_repeats_nothing(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[Any, ...]] = []
    stop_at = 3

    def measure(plan: Any, method: str, size: int, seed: int, scratch: Path, progress: Any) -> dict[str, Any]:
        if len(done) == stop_at:
            raise KeyboardInterrupt
        done.append((method, size, seed))
        return {"accuracy": 0.5 + 0.01 * size}

    monkeypatch.setattr(module.CurvePlan, "run_job", measure)
    options: dict[str, Any] = {"from_": pretrained_run, "out": tmp_path / "curve", **QUICK, **TASK}
    with pytest.raises(Interrupted):
        curve(table, **options)
    stop_at = -1
    curve(table, **options)
    assert len(done) == len(set(done)) == 2 * 2 * 4
    stored = json.loads((tmp_path / "curve" / "cells.json").read_text())
    stored["about"] |= {"train": table.name, "test": "a name"}  # of an older version
    (tmp_path / "curve" / "cells.json").write_text(json.dumps(stored))
    moved = Table("moved/rows.csv", table.columns, table.rows)
    curve(moved, **(options | {"seeds": 3, "methods": ["all", "head", "tfidf", "scratch", "tfidf"]}))
    assert len(done) == len(set(done)) == 3 * 2 * 4
    lines = (tmp_path / "curve" / "results.md").read_text().splitlines()
    assert next(line for line in lines if "| labels |" in line).count("TF-IDF") == 1


def test_an_interrupted_curve_has_a_report_of_the_finished_runs(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(plan: Any, method: str, size: int, seed: int, *_: Any) -> dict[str, Any]:
        if seed == 1:
            raise KeyboardInterrupt
        return {"accuracy": 0.5}

    monkeypatch.setattr(module.CurvePlan, "run_job", measure)
    with pytest.raises(Interrupted):
        curve(table, from_=pretrained_run, out=tmp_path / "curve", **QUICK, **TASK)
    results = json.loads((tmp_path / "curve" / "results.json").read_text(encoding="utf-8"))
    assert all(spread["values"] == [0.5] for by_size in results["curves"].values() for spread in by_size.values())
    page = (tmp_path / "curve" / "report.html").read_text(encoding="utf-8")
    assert "accuracy: one seed" in page
    assert "so the spread over seeds is unknown; bars: 95% intervals" in page
    assert 'class="band"' not in page
    assert page.count('class="interval"') == 2 * sum(map(len, results["curves"].values()))  # narrow and wide


def test_an_lstm_has_a_curve_too(lstm_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.CurvePlan, "run_job", lambda *_: {"accuracy": 0.5})
    out = curve(table, from_=lstm_run, out=tmp_path / "curve", **QUICK, **TASK)
    assert "lstm_units 8" in (out / "results.md").read_text(encoding="utf-8")


def test_the_former_name_of_min_steps_works_and_is_reported_once(
    pretrained_run: Path,
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_once.cache_clear()
    monkeypatch.setattr(module.CurvePlan, "run_job", lambda *_: {"accuracy": 0.5})
    former = {**QUICK, "min_updates": QUICK["min_steps"]}
    del former["min_steps"]
    for options in (QUICK, former, former):  # the second and third resume the first
        curve(table, from_=pretrained_run, out=tmp_path / "curve", **options, **TASK)
    assert capsys.readouterr().err.count("--min-updates is now called --min-steps.") == 1


def test_two_processes_in_one_folder_lose_and_repeat_nothing(tmp_path: Path) -> None:
    tried: list[str] = []

    def make_job(key: str, meanwhile: Any = None) -> Job:
        def work(scratch: Path, progress: Any) -> dict[str, Any]:
            tried.append(key)
            if meanwhile:
                meanwhile()
            return {"score": 1.0}

        return Job(key, 1, work)

    def run_another_process() -> None:
        other = ResultStore.open(tmp_path / "cells", {"of": "this"})
        with pytest.raises(UserError, match="is being written by another process"):
            run_jobs("cells", [make_job("a"), make_job("b")], other, Progress(), "score")

    early = ResultStore.open(tmp_path / "cells", {"of": "this"})
    first = ResultStore.open(tmp_path / "cells", {"of": "this"})
    run_jobs("cells", [make_job("a", run_another_process)], first, Progress(), "score")
    run_jobs("cells", [make_job("a"), make_job("b")], early, Progress(), "score")  # opened before `a` was finished
    assert tried == ["a", "b"]
    assert set(ResultStore.open(tmp_path / "cells", {"of": "this"}).results) == {"a", "b"}


def test_a_curve_does_not_resume_with_other_defaults(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"from_": pretrained_run, "out": tmp_path / "curve", **QUICK, **TASK, "methods": ["all"]}
    before = (curve(table, **options) / "cells.json").read_bytes()
    monkeypatch.setattr("gpt1.training.finetune.EMBEDDING_LR", 1e-6)  # as in another version of gpt1
    with pytest.raises(UserError, match=r"with peak_lr=0\.000375; this gpt1 would use 1e-06"):
        curve(table, **options)
    assert (tmp_path / "curve" / "cells.json").read_bytes() == before


def test_an_unfinished_run_resumes_only_with_the_same_settings(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak_lr_of(run: Path) -> float:
        (run / "results.json").unlink()  # as if killed before the end
        return float(runs.read_run_config(run)["peak_lr"])

    def start_or_resume() -> Path:
        own: dict[str, Any] = {"epochs": 1.0}
        return finetune_or_resume(
            table,
            tmp_path / "run",
            Progress(),
            resolve_training_settings(model_facts(pretrained_run)["config"], own, len(table), "classification"),
            from_=pretrained_run,
            **own,
            **TASK,
        )

    assert peak_lr_of(start_or_resume()) == 3.75e-4
    (tmp_path / "run" / "mark").touch()
    assert peak_lr_of(start_or_resume()) == 3.75e-4
    assert (tmp_path / "run" / "mark").exists()
    monkeypatch.setattr("gpt1.training.finetune.EMBEDDING_LR", 1e-6)  # as in another version of gpt1
    assert peak_lr_of(start_or_resume()) == 1e-6
    assert not (tmp_path / "run" / "mark").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"about": null, "cells": {}}', '{"about": {}, "cells": []}',
                '{"about": {}, "cells": {"a run": 3}}'],
)  # fmt: skip
def test_a_damaged_result_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "cells.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"cells\.json cannot be read: the file is damaged"):
        ResultStore.open(tmp_path, {})


def test_a_folder_of_another_curve_is_refused_with_the_difference(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.CurvePlan, "run_job", lambda *_: {"accuracy": 0.5})
    options: dict[str, Any] = {"from_": pretrained_run, "out": tmp_path / "curve", **QUICK, **TASK}
    curve(table, **options)
    curve(table, **(options | {"micro_batch": 1}))  # as the out-of-memory error advises
    with pytest.raises(UserError, match=r"was started with other settings: .* instead of peak_lr=0\.001"):
        curve(table, **(options | {"peak_lr": 1e-3}))
    with pytest.raises(UserError, match=r"min_steps=.* instead of min_steps=7"):
        curve(table, **(options | {"min_steps": 7}))
    other = Table(table.name, table.columns, table.rows[:-1])
    with pytest.raises(UserError, match=r"was started with other (train and )?test rows"):
        curve(other, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UserError, match="contains other files"):
        curve(table, **(options | {"out": tmp_path / "mine"}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sizes": [1]}, "sizes=1 is out of range: "),
        ({"sizes": [5000]}, "sizes=5000 is out of range: "),
        ({"methods": ["heads"]}, "Did you mean head"),
        ({"seed": 3}, "seed= is set by gpt1 curve itself"),
        ({"transfer_layers": 1}, "transfer_layers= is set by gpt1 curve itself"),
        ({"peak_rl": 3}, "Did you mean peak_lr"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(
    wrong: dict[str, Any], message: str, pretrained_run: Path, table: Table, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        curve(table, from_=pretrained_run, out=tmp_path / "curve", **(QUICK | TASK | wrong))
    assert not (tmp_path / "curve").exists()


def test_a_diverging_run_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    tried: list[str] = []

    def make_job(key: str, error: Exception | None = None) -> Job:
        def work(scratch: Path, progress: Any) -> dict[str, Any]:
            tried.append(key)
            if error:
                raise error
            return {"score": 1.0}

        return Job(key, 1, work)

    store = ResultStore.open(tmp_path / "cells", {"of": "this"})
    failed = run_jobs(
        "cells", [make_job("a"), make_job("b", GPT1Error("diverged.")), make_job("c")], store, Progress(), "score"
    )
    assert failed == ["b: diverged."]
    again = ResultStore.open(tmp_path / "cells", {"of": "this"})
    assert run_jobs("cells", [make_job("a"), make_job("b"), make_job("c")], again, Progress(), "score") == []
    assert tried == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    "task",
    [
        {"kind": "entailment", "premise": "text", "hypothesis": "other", "label": "label"},
        {"kind": "similarity", "text_a": "text", "text_b": "other", "label": "stars", "score": True},
        {"kind": "choice", "context": "text", "choices": "answers", "label": "right"},
    ],
    ids=lambda task: task["kind"],
)
def test_every_kind_of_task_has_a_curve(
    task: dict[str, Any], pretrained_run: Path, table: Table, tmp_path: Path
) -> None:
    out = curve(table, from_=pretrained_run, out=tmp_path / "curve", **(QUICK | ONE), **task)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["failed"] == []
    assert len(results["curves"]) == 2
