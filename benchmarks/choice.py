"""Fine-tuning on questions of RACE, 4 answers each: gpt1 computes a passage once for its answers, with and without the
auxiliary language model; transformers' classifier gives every answer a score from a sequence of its own (bf16, each
batch padded to its longest sequence), as the release does.
"""

from __future__ import annotations

import random
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.finetuning import ours
from benchmarks.material import alike, called, data, device, gpt, openai_config, repeated, trainer
from benchmarks.measure import Result, Work, compared, in_turn
from gpt1.config import FinetuneConfig, resolve
from gpt1.data.order import of_update
from gpt1.finetuning import Work as Finetuning
from gpt1.inputs import KINDS, Example, encode
from gpt1.kernels.kept import kept_arrays
from gpt1.labelled import Task
from gpt1.model import Head, TaskModel
from gpt1.objectives import l3
from gpt1.targets import Answers
from gpt1.training.devices import place
from gpt1.training.progress import Silent

BATCH, ANSWERS, ROUNDS = 2, 4, 3  # with 8 questions an update, transformers asks for more than 16 GB


def run(rounds: int, quick: bool) -> Result:
    updates = 1 if quick else 4  # of a round
    ids, source = questions(16 if quick else 128, quick)
    work = choosing(ids, quick)
    peer = Choices(work)
    same = {"transformers' loss on the first update is ours, fp32, λ = 0": losses_agree(work, peer)}
    works = {
        "gpt1 bf16, λ = 0": ours(work, 0.0, BATCH),
        "gpt1 bf16, λ = 0.5": ours(work, 0.5, BATCH),
        "transformers bf16": theirs(work, peer),
    }
    place(work.model, work.device, torch.bfloat16)
    work.model.train()
    with kept_arrays(work.model):
        seconds = in_turn({name: repeated(one, updates) for name, one in works.items()}, rounds, warm_up=works)
    title = f"Fine-tuning, {called(work.model.gpt.config)}, {BATCH} questions, {source} (transformers knows only λ = 0)"
    table, ratios = compared(title, seconds, list(works)[:2], updates * BATCH, "questions")
    return Result([table], ratios, same)


def questions(n: int, quick: bool) -> tuple[list[list[int]], str]:
    """Tokens of context, question and answers of `n` questions in turn, drawn at random from RACE's dev split; without
    the data, random tokens in lengths drawn like theirs."""
    folder, draw = data(), random.Random(0)
    if folder is None or quick:
        found = []
        for _ in range(n):  # the logarithms of the lengths of 500 passages: mean 5.72, deviation 0.40
            passage = 30 if quick else round(draw.lognormvariate(5.72, 0.4))
            lengths = [passage, 11, *[draw.randint(1, 12) for _ in range(ANSWERS)]]
            found += [[draw.randrange(1, 40478) for _ in range(length)] for length in lengths]
        return found, "random tokens in lengths drawn like those of RACE"
    from gpt1.tasks import known
    from gpt1.tokenizer import Tokenizer

    rows = draw.sample(known("race").data.read("dev", folder / "data/tasks").rows, n)
    texts = [text for row in rows for text in (row["context"], row["question"], *row["choices"])]
    return Tokenizer.load(folder / "openai").encode_batch(texts), "rows of RACE"


def choosing(ids: list[list[int]], quick: bool) -> Finetuning:
    """What `gpt1 finetune` has in its hands once its rows are read."""
    model = gpt(quick)
    model.add_special_tokens()
    kind, target = KINDS["choice"], Answers(ANSWERS)
    n = len(ids) // (2 + ANSWERS)
    examples = [Example(("", ""), ("",) * ANSWERS, i % ANSWERS) for i in range(n)]  # their texts are tokens already
    coded = encode(kind, examples, ids, model.config.vocab_size, model.config.context, alike=True)
    task = Task(kind, {}, target, examples, [], target.main, {})
    task_model = TaskModel(model, Head(model.config.n_embd, target.outputs, kind.each)).to(device())
    tokenizer: Any = None
    return Finetuning(task_model, tokenizer, task, coded, [], device(), "", {}, {})


class Choices(nn.Module):
    """transformers' classifier with one output, whose scores of the answers of a question compete."""

    def __init__(self, work: Finetuning) -> None:
        from transformers import OpenAIGPTForSequenceClassification

        super().__init__()
        gpt = work.model.gpt
        self.scorer: Any = OpenAIGPTForSequenceClassification(openai_config(gpt.config, num_labels=1, pad_token_id=0))
        alike(gpt, self.scorer.transformer)
        with torch.no_grad():
            self.scorer.score.weight.copy_(work.model.head.linear.weight)
        self.to(work.device)

    def forward(self, labels: Tensor, **sequences: Tensor) -> SimpleNamespace:  # sequences [questions · answers, time]
        logits = self.scorer(**sequences).logits.view(len(labels), ANSWERS)
        return SimpleNamespace(loss=F.cross_entropy(logits.float(), labels))


def theirs(work: Finetuning, peer: Any) -> Work:
    """The same questions in the same updates."""
    update, steps = trainer(peer), count()
    return lambda: update(**padded(work, of_update(next(steps), len(work.training), BATCH, 0)[1].tolist()))


def padded(work: Finetuning, chosen: list[int]) -> dict[str, Tensor]:
    sequences = [torch.tensor(sequence) for i in chosen for sequence in work.training[i].sequences]
    ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(sequence) for sequence in sequences], batch_first=True)
    labels = torch.tensor([work.task.training[i].label for i in chosen])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(work.device) for name, tensor in batch.items()}


@torch.no_grad()
def losses_agree(work: Finetuning, peer: Any) -> bool:
    work.model.eval(), peer.eval()
    config = resolve(FinetuneConfig, {"batch_size": BATCH})
    update = work.source(config, Silent()).update(0)
    mine = sum(l3(work.model, work.task.target, 0.0, piece).total for piece in update.pieces)
    loss = peer(**padded(work, of_update(0, len(work.training), BATCH, config.seed)[1].tolist())).loss
    return bool(torch.isclose(torch.as_tensor(mine), loss, rtol=1e-4))
