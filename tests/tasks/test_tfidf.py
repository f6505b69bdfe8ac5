"""The TF-IDF baseline finds what single words tell, for every kind of task, and chooses only where rows suffice."""

from __future__ import annotations

import pytest

from gpt1.tasks.examples import fit
from gpt1.tasks.kinds import KINDS, Example
from gpt1.tasks.tfidf import FEW, STRENGTHS, VECTORIZERS, Features, problem_of, tfidf_scores

THINGS = ("file", "list", "number", "logger", "option", "string", "path", "name")


def examples(kind: str, count: int) -> list[Example]:
    """Rows whose label is a word of their text (or of the right answer)."""
    texts = [f"the {THINGS[i % 8]} {i} is" for i in range(count)]
    good = [i % 2 == 0 for i in range(count)]
    if kind == "choice":
        answers = [("valid", "broken") if g else ("broken", "valid") for g in good]
        return [Example((text, ""), answer, answer.index("valid")) for text, answer in zip(texts, answers, strict=True)]
    ends = ["valid" if g else "broken" for g in good]
    second = [] if len(KINDS[kind].columns) == 1 else ["it is so"]
    return [
        Example((f"{text} {end}", *second), label=float(g) + 0.5 * g if kind == "regression" else end)
        for text, end, g in zip(texts, ends, good, strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_that_tells_the_label_is_found(kind: str) -> None:
    rows = examples(kind, 48)
    training, test = rows[:32], rows[32:]
    target = fit(KINDS[kind], False, training, str, "rows")
    found = tfidf_scores(KINDS[kind], target, training, test)
    assert found[target.main] > 0.95
    assert found["features"] in VECTORIZERS
    assert any(found["C"] == pytest.approx(c) for c in STRENGTHS)


def test_with_too_few_rows_nothing_is_chosen() -> None:
    rows = examples("classification", 8)
    target = fit(KINDS["classification"], False, rows[:4], str, "rows")
    found = tfidf_scores(KINDS["classification"], target, rows[:4], rows[4:])
    assert {name: found[name] for name in FEW} == FEW


def test_a_strength_that_is_given_is_taken() -> None:
    kind, rows = KINDS["classification"], examples("classification", 32)
    problem = problem_of(fit(kind, False, rows, str, "rows"), rows)
    assert problem.enough
    fitted = problem.fit(Features(kind, VECTORIZERS["words"]), rows, c=3.0)
    assert fitted.model.C == fitted.c == 3.0
