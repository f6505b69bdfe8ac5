"""Fine-tuning on questions of RACE, 4 answers each: gpt1 computes a passage once for its answers, with and without the
auxiliary language model; transformers' classifier gives every answer a score from a sequence of its own (bf16, each
batch padded to its longest sequence), as the release does.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.finetuning import classifier, measured, prepared
from benchmarks.material import data, gpt
from benchmarks.measure import Result
from gpt1.tasks.kinds import KINDS, Example
from gpt1.tasks.targets import Answers
from gpt1.training.finetune import Work as Finetuning

BATCH, ANSWERS, ROUNDS = 2, 4, 3  # with 8 questions an update, transformers asks for more than 16 GB


def run(rounds: int, quick: bool) -> Result:
    updates = 1 if quick else 4  # of a round
    ids, source = questions(16 if quick else 128, quick)
    work = choosing(ids, quick)
    title = f"{BATCH} questions, {source} (transformers knows only λ = 0)"
    return measured(work, Choices(work), BATCH, updates, rounds, title, "questions")


def questions(n: int, quick: bool) -> tuple[list[list[int]], str]:
    """Tokens of context, question and answers of `n` questions in turn, drawn at random from RACE's dev split; without
    the data, random tokens in lengths drawn like theirs."""
    folder, draw = data("data/tasks/RACE.tar.xz", "openai"), random.Random(0)
    if folder is None or quick:
        found = []
        for _ in range(n):  # the logarithms of the lengths of 500 passages: mean 5.72, deviation 0.40
            passage = 30 if quick else round(draw.lognormvariate(5.72, 0.4))
            lengths = [passage, 11, *[draw.randint(1, 12) for _ in range(ANSWERS)]]
            found += [[draw.randrange(1, 40478) for _ in range(length)] for length in lengths]
        return found, "random tokens in lengths drawn like those of RACE"
    from gpt1.datasets import known
    from gpt1.tokenization.tokenizer import Tokenizer

    rows = draw.sample(known("race").data.read("dev", folder / "data/tasks").rows, n)
    texts = [text for row in rows for text in (row["context"], row["question"], *row["choices"])]
    return Tokenizer.load(folder / "openai").encode_batch(texts), "rows of RACE"


def choosing(ids: list[list[int]], quick: bool) -> Finetuning:
    model = gpt(quick)
    model.add_special_tokens()
    texts = ("",) * ANSWERS
    examples = [Example(("", ""), texts, i % ANSWERS) for i in range(len(ids) // (2 + ANSWERS))]
    return prepared(model, KINDS["choice"], Answers(ANSWERS), examples, ids)


class Choices(nn.Module):
    """transformers' classifier with one output, whose scores of the answers of a question compete."""

    def __init__(self, work: Finetuning) -> None:
        super().__init__()
        self.scorer = classifier(work)

    def forward(self, labels: Tensor, **sequences: Tensor) -> SimpleNamespace:  # sequences [questions · answers, time]
        logits = self.scorer(**sequences).logits.view(len(labels), ANSWERS)
        return SimpleNamespace(loss=F.cross_entropy(logits.float(), labels))
