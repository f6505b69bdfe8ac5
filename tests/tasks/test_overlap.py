"""The overlap baseline: shared words decide labels and answers; a score is the cosine of the TF-IDF vectors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from gpt1.tasks.examples import target_from_examples
from gpt1.tasks.kinds import KINDS, Example
from gpt1.tasks.overlap import fit_overlap, has_pairs, shared_words

WORDS = ("file", "list", "number", "logger", "option", "string", "path", "name")


def make_pair(i: int, shared: int) -> tuple[str, str]:
    """Two texts of four words, `shared` of them in both."""
    first = [WORDS[(i + k) % 8] for k in range(4)]
    return " ".join(first), " ".join([*first[:shared], *(f"x{i}{k}" for k in range(4 - shared))])


def test_shares_are_of_the_first_text_of_the_second_and_of_both() -> None:
    assert shared_words("A dog ran, a dog!", "The dog sat.") == (1 / 3, 1 / 3, 1 / 5)
    assert shared_words("", "a") == (0, 0, 0)


@pytest.mark.parametrize("kind", ["entailment", "similarity"])
def test_pairs_that_share_words_are_distinguished_from_those_that_do_not(kind: str) -> None:
    rows = [Example(make_pair(i, 3 if i % 2 else 1), label="same" if i % 2 else "other") for i in range(48)]
    target = target_from_examples(KINDS[kind], False, rows, str, "rows")
    assert fit_overlap(KINDS[kind], target, rows[:32]).scores(target, rows[32:])["accuracy"] == 1
    new_words = [Example(("one two", "one two three"), label="same"), Example(("one two", "four five"), label="other")]
    assert fit_overlap(KINDS[kind], target, rows).scores(target, new_words)["accuracy"] == 1


def test_the_answer_with_more_words_of_the_context_is_chosen() -> None:
    rows = []
    for i in range(48):
        context, right = make_pair(i, 3)
        answers = ("none of it", right) if i % 2 else (right, "none of it")
        rows.append(Example((context, ""), answers, i % 2))
    target = target_from_examples(KINDS["choice"], False, rows, str, "rows")
    assert fit_overlap(KINDS["choice"], target, rows[:32]).scores(target, rows[32:])["accuracy"] == 1


def test_the_correlation_of_scores_is_that_of_the_untrained_cosine() -> None:
    random = np.random.default_rng(0)
    rows = [
        Example(make_pair(i, int(n)), label=float(n + random.random()))
        for i, n in enumerate(random.integers(5, size=60))
    ]
    training, test = rows[:40], rows[40:]
    target = target_from_examples(KINDS["similarity"], True, training, str, "rows")
    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit(
        [text for example in training for text in dict.fromkeys(example.fields)]
    )
    a, b = (vectors.transform([example.fields[side] for example in test]) for side in (0, 1))
    cosine = np.asarray(a.multiply(b).sum(axis=1))[:, 0]
    expected = np.corrcoef(cosine, [example.label for example in test])[0, 1]
    found = fit_overlap(KINDS["similarity"], target, training).scores(target, test)
    assert found["pearson"] == pytest.approx(expected)
    assert expected > 0.5


def test_a_single_text_has_no_overlap() -> None:
    assert {name for name, kind in KINDS.items() if not has_pairs(kind)} == {
        "classification",
        "multilabel",
        "regression",
    }
