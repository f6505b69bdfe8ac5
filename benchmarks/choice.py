"""Fine-tuning on questions of RACE, 4 answers each: gpt1 computes a passage once for its answers, with and without the
auxiliary loss; transformers' classifier scores every answer in a separate sequence (bf16, each batch padded to its
longest sequence), as the release does.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.finetuning import compare_finetuning, make_setup, transformers_classifier
from benchmarks.measure import BenchmarkResult
from benchmarks.models_and_data import find_data_dir, random_model
from gpt1.tasks.kinds import KINDS, Example
from gpt1.tasks.targets import Answers
from gpt1.training.finetune_setup import FinetuneSetup

BATCH, ANSWERS, ROUNDS = 2, 4, 3  # with 8 questions per step, transformers needs more than 16 GB


def run(rounds: int, quick: bool) -> BenchmarkResult:
    steps = 1 if quick else 4  # per round
    ids, source = race_questions(16 if quick else 128, quick)
    work = race_setup(ids, quick)
    title = f"{BATCH} questions, {source} (transformers supports only λ = 0)"
    return compare_finetuning(work, ChoiceClassifier(work), BATCH, steps, rounds, title, "questions")


def race_questions(n: int, quick: bool) -> tuple[list[list[int]], str]:
    """Tokens of context, question and answers of `n` random questions of RACE's dev split.

    Without the data, random tokens with the same distribution of lengths.
    """
    folder, draw = find_data_dir("data/tasks/RACE.tar.xz", "openai"), random.Random(0)
    if folder is None or quick:
        found = []
        for _ in range(n):  # the logarithms of the lengths of 500 passages: mean 5.72, deviation 0.40
            passage = 30 if quick else round(draw.lognormvariate(5.72, 0.4))
            lengths = [passage, 11, *[draw.randint(1, 12) for _ in range(ANSWERS)]]
            found += [[draw.randrange(1, 40478) for _ in range(length)] for length in lengths]
        return found, "random tokens with lengths like those of RACE"
    from gpt1.datasets import require_data_set
    from gpt1.tokenization.tokenizer import Tokenizer

    rows = draw.sample(require_data_set("race").data.read("dev", folder / "data/tasks").rows, n)
    texts = [text for row in rows for text in (row["context"], row["question"], *row["choices"])]
    return Tokenizer.load(folder / "openai").encode_batch(texts), "rows of RACE"


def race_setup(ids: list[list[int]], quick: bool) -> FinetuneSetup:
    model = random_model(quick)
    model.add_special_tokens()
    texts = ("",) * ANSWERS
    examples = [Example(("", ""), texts, i % ANSWERS) for i in range(len(ids) // (2 + ANSWERS))]
    return make_setup(model, KINDS["choice"], Answers(ANSWERS), examples, ids)


class ChoiceClassifier(nn.Module):
    """transformers' classifier with one output, and a softmax over the answers of a question."""

    def __init__(self, setup: FinetuneSetup) -> None:
        super().__init__()
        self.scorer = transformers_classifier(setup)

    def forward(self, labels: Tensor, **sequences: Tensor) -> SimpleNamespace:  # sequences [questions · answers, time]
        logits = self.scorer(**sequences).logits.view(len(labels), ANSWERS)
        return SimpleNamespace(loss=F.cross_entropy(logits.float(), labels))
