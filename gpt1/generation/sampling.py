"""Which token comes next: the most likely, or one drawn among the more likely ones."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt1.errors import UserError

COLD = 1e-9  # a temperature below it is 0: logits divided by it would leave the range of their type
SOON = 2**-25  # a waiting time for one of 0, which an Apple GPU draws once in 30 million times (pytorch issue 192577)


def check_finite(logits: Tensor) -> None:
    """UserError for logits that give no probabilities; some that are −inf (what cannot be) do."""
    require_finite(all_finite(logits))


def all_finite(logits: Tensor) -> Tensor:  # → a scalar
    return logits.amax(-1).isfinite().all()


def require_finite(numbers: Tensor) -> None:
    if not bool(numbers):
        raise UserError("the model's logits are not all numbers.", "Its weights are damaged, or they diverged.")


class Sampler:
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
        self.random_numbers: list[Tensor] = []  # each [batch, vocab], of the new tokens from number `first_kept` on
        self.first_kept = 0
        self.finite: Tensor | None = None  # whether the logits since the last `check` were numbers

    def __call__(self, logits: Tensor, first: int) -> Tensor:
        """New tokens number first, first + 1, …: logits [batch, time, vocab] → [batch, time]."""
        self.observe(logits)
        if self.temperature < COLD:
            return logits.argmax(-1)
        begin, end = first - self.first_kept, first - self.first_kept + logits.shape[1]
        while len(self.random_numbers) < end:
            drawn = torch.empty_like(logits[:, 0]).exponential_(generator=self.generator)
            self.random_numbers.append(drawn.masked_fill_(drawn == 0, SOON))  # by 0, what cannot be would be no number
        # of waiting times, exponential with rates p, the k-th is the shortest with probability p_k
        return (self.probabilities(logits) / torch.stack(self.random_numbers[begin:end], dim=1)).argmax(-1)

    def observe(self, logits: Tensor) -> None:
        """Refuse logits that are no numbers: on a CPU at once; elsewhere at the next `check`, since each look makes the
        processor wait for the device."""
        finite = all_finite(logits)
        self.finite = finite if self.finite is None else self.finite & finite
        if logits.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """To be called when a text is written."""
        if self.finite is not None:
            require_finite(self.finite)
        self.finite = None

    def discard_before(self, place: int) -> None:
        """The new tokens before number `place` will not be asked for again."""
        self.random_numbers, self.first_kept = self.random_numbers[place - self.first_kept :], place

    def probabilities(self, logits: Tensor) -> Tensor:  # [..., vocab] → the same
        """What is drawn from: the top k and the top share p, at the temperature."""
        logits = logits / self.temperature
        if self.top_k:
            smallest_kept = logits.topk(min(self.top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
        probabilities = logits.softmax(-1)
        if self.top_p < 1:
            ordered, index = probabilities.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # probability of everything more likely
            kept = ordered.masked_fill((before >= self.top_p) & (before > 0), 0.0)  # the most likely one always
            probabilities = torch.zeros_like(probabilities).scatter(-1, index, kept)
        return probabilities
