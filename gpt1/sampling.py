"""Which token comes next: the likeliest, or one drawn among the likelier ones."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt1.errors import UserError

COLD = 1e-9  # a temperature below it is 0: logits divided by it would leave the range of their type


def check_numbers(logits: Tensor) -> None:
    """UserError for logits that give no probabilities; some that are −inf (what cannot be) do."""
    if not bool(logits.amax(-1).isfinite().all()):
        raise UserError("the model's logits are not all numbers.", "Its weights are damaged, or they diverged.")


class Choice:
    """How the new tokens of a text are chosen. The random numbers of each are drawn once, in the tokens' order: a token
    that is asked for again, of the same logits, comes out the same. That makes guesses exact (`GPT.generate`)."""

    def __init__(
        self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1):
            raise UserError(
                f"temperature {temperature}, top_k {top_k}, top_p {top_p} leave no token to choose.",
                "The first two have to be at least 0, top_p above 0 and at most 1.",
            )
        self.temperature, self.top_k, self.top_p, self.generator = temperature, top_k, top_p, generator
        self.numbers: list[Tensor] = []  # each [batch, vocab], of the new tokens from number `settled` on
        self.settled = 0

    def __call__(self, logits: Tensor, first: int) -> Tensor:
        """New tokens number first, first + 1, …: logits [batch, time, vocab] → [batch, time]."""
        check_numbers(logits)
        if self.temperature < COLD:
            return logits.argmax(-1)
        begin, end = first - self.settled, first - self.settled + logits.shape[1]
        while len(self.numbers) < end:
            self.numbers.append(torch.empty_like(logits[:, 0]).exponential_(generator=self.generator))
        # of waiting times, exponential with rates p, the k-th is the shortest with probability p_k
        return (self.probabilities(logits) / torch.stack(self.numbers[begin:end], dim=1)).argmax(-1)

    def settle(self, place: int) -> None:
        """The new tokens before number `place` will not be asked for again."""
        self.numbers, self.settled = self.numbers[place - self.settled :], place

    def probabilities(self, logits: Tensor) -> Tensor:  # [..., vocab] → the same
        """What is drawn from: the top k and the top share p, at the temperature."""
        logits = logits / self.temperature
        if self.top_k:
            smallest_kept = logits.topk(min(self.top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
        probabilities = logits.softmax(-1)
        if self.top_p < 1:
            ordered, index = probabilities.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # probability of everything likelier
            kept = ordered.masked_fill((before >= self.top_p) & (before > 0), 0.0)  # the likeliest one always
            probabilities = torch.zeros_like(probabilities).scatter(-1, index, kept)
        return probabilities
