"""Label efficiency: fixed test rows, nothing done twice, the arithmetic of what pre-training is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.errors import GPT1Error, Interrupted, UserError
from gpt1.experiments import label_efficiency as module
from gpt1.experiments.label_efficiency import measure_label_efficiency
from gpt1.experiments.label_savings import compare_curves, curve_verdict, labels_to_reach
from gpt1.experiments.result_store import Job, ResultStore, finetune_or_resume, resolve_training_settings, run_jobs
from gpt1.experiments.train_test_data import read_train_test, stratified_order
from gpt1.progress import NullProgress
from gpt1.runs import folder as runs
from gpt1.tables.table import Table
from gpt1.tasks.kinds import Example
from gpt1.tasks.targets import Classes

TASK: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label"}
QUICK: dict[str, Any] = {"sizes": [4, 16], "seeds": 2, "min_updates": 2, "epochs": 1.0, "precision": "fp32"}
ONE: dict[str, Any] = {"sizes": [24], "seeds": 1, "methods": ["all", "tfidf"]}
curves = st.dictionaries(st.sampled_from([8, 16, 32, 64, 128]), st.floats(0, 1), min_size=2)


# --- what pre-training is worth --------------------------------------------------------------------------------------


def test_between_two_sizes_labels_are_read_off_a_line_over_their_logarithm() -> None:
    scratch = {10: 0.5, 1000: 0.9}
    assert labels_to_reach(0.7, scratch) == pytest.approx(100)
    assert labels_to_reach(0.9, scratch) == pytest.approx(1000)
    assert labels_to_reach(0.4, scratch) == 10
    assert labels_to_reach(0.91, scratch) is None


@given(curve=curves, score=st.floats(0, 1))
def test_a_higher_score_never_needs_fewer_labels(curve: dict[int, float], score: float) -> None:
    needed = labels_to_reach(score, curve)
    better = labels_to_reach(min(1.0, score + 0.1), curve)
    if needed is None:
        assert better is None
        assert max(curve.values()) < score
    else:
        assert min(curve) <= needed <= max(curve)
        assert better is None or better >= needed


@given(with_it=curves, without=curves)
def test_every_size_that_both_curves_have_is_judged(with_it: dict[int, float], without: dict[int, float]) -> None:
    found = compare_curves(with_it, without)
    assert [point.labels for point in found] == sorted(set(with_it) & set(without))
    for point in found:
        if point.gap <= 0:
            assert point.labels_needed is not None
            assert point.labels_needed <= point.labels + 1e-6


def test_the_verdict_counts_the_labels_that_are_saved() -> None:
    said = curve_verdict({10: 0.7, 1000: 0.9}, {10: 0.5, 1000: 0.9}, {10: 0.6, 1000: 0.85}, "accuracy")
    assert said[0].startswith("Pre-training is worth about 90 labels here: with 10 labels the pre-trained model has")
    assert "needs about 100." in said[0]
    assert said[1] == "The pre-trained model is ahead of TF-IDF with a linear model at every number of labels."


@given(with_it=curves, without=curves)
def test_no_verdict_counts_less_than_no_labels(with_it: dict[int, float], without: dict[int, float]) -> None:
    for line in curve_verdict(with_it, without, None, "accuracy"):
        assert "about -" not in line
        assert "about 0" not in line


def test_a_curve_that_was_as_good_with_fewer_labels_saves_none() -> None:
    (said,) = curve_verdict({8: 0.5, 32: 0.8}, {8: 0.9, 32: 0.6}, None, "accuracy")
    assert said.startswith("Pre-training saves no labels here: it is ahead at 32 labels, but")
    assert [module.format_labels_needed(n, 8, 64) for n in (8.0, 20.4, None)] == ["8 or fewer", "20", "more than 64"]


def test_the_verdict_says_where_pre_training_loses() -> None:
    scratch, pretrained = {8: 0.5, 64: 0.8}, {8: 0.5, 64: 0.7}
    said = curve_verdict(pretrained, scratch, {8: 0.6, 64: 0.6}, "accuracy")
    assert "worth nothing" in said[0]
    assert said[1] == "TF-IDF with a linear model is better than the pre-trained model at 8 labels."
    beyond = curve_verdict({8: 0.95, 64: 0.96}, scratch, {8: 0.9, 64: 0.96}, "accuracy")
    assert beyond[0].startswith("Pre-training is worth more than 56 labels here")
    assert beyond[1] == "The pre-trained model is as good as TF-IDF with a linear model at every number of labels."
    (most,) = curve_verdict({8: 0.5, 64: 0.96}, scratch, None, "accuracy")
    assert most.startswith("Pre-training is worth more labels than were tried: with 64 labels")


# --- the rows --------------------------------------------------------------------------------------------------------


@given(
    labels=st.lists(st.sampled_from("abc"), min_size=6, max_size=60).filter(lambda found: len(set(found)) > 1),
    seed=st.integers(0, 5),
)
def test_every_beginning_of_a_draw_keeps_the_shares_of_the_labels(labels: list[str], seed: int) -> None:
    names = tuple(sorted(set(labels)))
    order = stratified_order([Example((str(i),), label=label) for i, label in enumerate(labels)], Classes(names), seed)
    assert sorted(order) == list(range(len(labels)))
    for n in range(len(names), len(labels) + 1):
        for name in names:
            drawn = sum(labels[i] == name for i in order[:n])
            share = n * labels.count(name) / len(labels)
            assert drawn >= 1
            assert abs(drawn - share) <= len(names)


def test_test_rows_are_the_same_for_every_seed_and_no_training_row_is_among_them(table: Table) -> None:
    doubled = Table(table.name, table.columns, [*table.rows, *table.rows[:9]])
    found = read_train_test(doubled, None, "classification", {"text": "text", "label": "label"}, False, None)
    again = read_train_test(doubled, None, "classification", {"text": "text", "label": "label"}, False, None)
    assert found.test.table.rows == again.test.table.rows
    training, test = ({e.fields for e in rows.examples} for rows in (found.training, found.test))
    assert not training & test
    assert len(training) == len(found.training)
    assert len(training) + len(test) == len(table)
    assert found.draw_train_set(8, 0, "").table.rows != found.draw_train_set(8, 1, "").table.rows


# --- the runs --------------------------------------------------------------------------------------------------------


def test_a_curve_measures_every_method_size_and_seed_and_leaves_no_models(
    pretrained_run: Path, table: Table, tmp_path: Path
) -> None:
    out = measure_label_efficiency(
        table, from_=pretrained_run, out=tmp_path / "curve", **(QUICK | {"sizes": [16]}), **TASK
    )
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


def test_a_curve_goes_on_where_it_stopped_and_repeats_nothing(
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
        measure_label_efficiency(table, **options)
    stop_at = -1
    measure_label_efficiency(table, **options)
    assert len(done) == len(set(done)) == 2 * 2 * 4
    measure_label_efficiency(table, **(options | {"seeds": 3}))
    assert len(done) == len(set(done)) == 3 * 2 * 4


def test_a_curve_that_was_stopped_has_a_page_of_what_is_finished(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(plan: Any, method: str, size: int, seed: int, *_: Any) -> dict[str, Any]:
        if seed == 1:
            raise KeyboardInterrupt
        return {"accuracy": 0.5}

    monkeypatch.setattr(module.CurvePlan, "run_job", measure)
    with pytest.raises(Interrupted):
        measure_label_efficiency(table, from_=pretrained_run, out=tmp_path / "curve", **QUICK, **TASK)
    results = json.loads((tmp_path / "curve" / "results.json").read_text(encoding="utf-8"))
    assert all(spread["values"] == [0.5] for by_size in results["curves"].values() for spread in by_size.values())
    assert "median over 1 seed [" in (tmp_path / "curve" / "report.html").read_text(encoding="utf-8")


def test_an_lstm_has_a_curve_too(lstm_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.CurvePlan, "run_job", lambda *_: {"accuracy": 0.5})
    out = measure_label_efficiency(table, from_=lstm_run, out=tmp_path / "curve", **QUICK, **TASK)
    assert "lstm_units 8" in (out / "results.md").read_text(encoding="utf-8")


def test_two_processes_in_one_folder_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    tried: list[str] = []

    def cell(key: str, meanwhile: Any = None) -> Job:
        def work(scratch: Path, progress: Any) -> dict[str, Any]:
            tried.append(key)
            if meanwhile:
                meanwhile()
            return {"score": 1.0}

        return Job(key, 1, work)

    def another() -> None:
        other = ResultStore.open(tmp_path / "cells", {"of": "this"})
        with pytest.raises(UserError, match="is being written by another process"):
            run_jobs("cells", [cell("a"), cell("b")], other, NullProgress(), "score")

    early = ResultStore.open(tmp_path / "cells", {"of": "this"})
    first = ResultStore.open(tmp_path / "cells", {"of": "this"})
    run_jobs("cells", [cell("a", another)], first, NullProgress(), "score")
    run_jobs("cells", [cell("a"), cell("b")], early, NullProgress(), "score")  # opened before `a` was finished
    assert tried == ["a", "b"]
    assert set(ResultStore.open(tmp_path / "cells", {"of": "this"}).results) == {"a", "b"}


def test_a_curve_does_not_go_on_with_other_defaults_than_it_was_begun_with(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"from_": pretrained_run, "out": tmp_path / "curve", **QUICK, **TASK, "methods": ["all"]}
    before = (measure_label_efficiency(table, **options) / "cells.json").read_bytes()
    monkeypatch.setattr("gpt1.training.finetune.MAX_DEFAULT_LR", 1e-6)  # as another version of gpt1 might
    with pytest.raises(UserError, match=r"with --peak-lr 0\.000375; this gpt1 would take 1e-06"):
        measure_label_efficiency(table, **options)
    assert (tmp_path / "curve" / "cells.json").read_bytes() == before


def test_a_half_made_run_goes_on_only_with_the_settings_that_it_was_begun_with(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate_of(run: Path) -> float:
        (run / "results.json").unlink()  # as if killed before the end
        return float(runs.read_run_config(run)["peak_lr"])

    def begin_or_go_on() -> Path:
        own: dict[str, Any] = {"epochs": 1.0}
        return finetune_or_resume(
            table,
            tmp_path / "run",
            NullProgress(),
            resolve_training_settings(16, own),
            from_=pretrained_run,
            **own,
            **TASK,
        )

    assert rate_of(begin_or_go_on()) == 3.75e-4
    (tmp_path / "run" / "mark").touch()
    assert rate_of(begin_or_go_on()) == 3.75e-4
    assert (tmp_path / "run" / "mark").exists()
    monkeypatch.setattr("gpt1.training.finetune.MAX_DEFAULT_LR", 1e-6)  # as another version of gpt1 might
    assert rate_of(begin_or_go_on()) == 1e-6
    assert not (tmp_path / "run" / "mark").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"about": null, "cells": {}}', '{"about": {}, "cells": []}',
                '{"about": {}, "cells": {"a run": 3}}'],
)  # fmt: skip
def test_a_file_of_results_that_is_damaged_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "cells.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"cells\.json cannot be read: the file is damaged"):
        ResultStore.open(tmp_path, {})


def test_a_folder_of_another_curve_is_refused_by_what_differs(
    pretrained_run: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.CurvePlan, "run_job", lambda *_: {"accuracy": 0.5})
    options: dict[str, Any] = {"from_": pretrained_run, "out": tmp_path / "curve", **QUICK, **TASK}
    measure_label_efficiency(table, **options)
    measure_label_efficiency(table, **(options | {"micro_batch": 1}))  # as is advised where memory ends
    with pytest.raises(UserError, match="was begun with settings"):
        measure_label_efficiency(table, **(options | {"peak_lr": 1e-3}))
    other = Table(table.name, table.columns, table.rows[:-1])
    with pytest.raises(UserError, match="was begun with"):
        measure_label_efficiency(other, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UserError, match="holds something else"):
        measure_label_efficiency(table, **(options | {"out": tmp_path / "mine"}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sizes": [1]}, "--sizes 1: "),
        ({"sizes": [5000]}, "--sizes 5000: "),
        ({"methods": ["heads"]}, "Did you mean head"),
        ({"seed": 3}, "--seed is set by the analysis"),
        ({"peak_rl": 3}, "Did you mean peak_lr"),
    ],
)
def test_what_a_curve_cannot_do_is_refused_before_anything_is_written(
    wrong: dict[str, Any], said: str, pretrained_run: Path, table: Table, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        measure_label_efficiency(table, from_=pretrained_run, out=tmp_path / "curve", **(QUICK | TASK | wrong))
    assert not (tmp_path / "curve").exists()


def test_a_run_that_diverges_fails_alone_and_is_tried_again(tmp_path: Path) -> None:
    tried: list[str] = []

    def cell(key: str, error: Exception | None = None) -> Job:
        def work(scratch: Path, progress: Any) -> dict[str, Any]:
            tried.append(key)
            if error:
                raise error
            return {"score": 1.0}

        return Job(key, 1, work)

    kept = ResultStore.open(tmp_path / "cells", {"of": "this"})
    failed = run_jobs("cells", [cell("a"), cell("b", GPT1Error("diverged.")), cell("c")], kept, NullProgress(), "score")
    assert failed == ["b: diverged."]
    again = ResultStore.open(tmp_path / "cells", {"of": "this"})
    assert run_jobs("cells", [cell("a"), cell("b"), cell("c")], again, NullProgress(), "score") == []
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
    out = measure_label_efficiency(table, from_=pretrained_run, out=tmp_path / "curve", **(QUICK | ONE), **task)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["failed"] == []
    assert len(results["curves"]) == 2
