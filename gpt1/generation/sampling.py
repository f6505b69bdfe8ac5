"""Sampling of the next token with temperature, top-k and top-p."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from gpt1.errors import UserError

MIN_TEMPERATURE = 1e-9  # lower ones count as 0: logits divided by them would overflow
MIN_EXPONENTIAL = 2**-25  # replaces 0, which an Apple GPU samples once in 30 million times (PyTorch issue 192577)


class DamagedModelError(UserError):
    """The model is at fault, not what it was asked."""


def check_finite_logits(logits: Tensor) -> None:
    """Raise UserError if the softmax of the logits is not finite. Single logits of −inf (probability 0) are allowed."""
    require_finite(logits_are_finite(logits))


def logits_are_finite(logits: Tensor) -> Tensor:  # → a scalar
    return logits.amax(-1).isfinite().all()


def require_finite(finite: Tensor) -> None:
    if not bool(finite):
        problem = "the model's logits are not finite."
        raise DamagedModelError(
            problem, "Its weights are damaged, or training diverged. Use another model or checkpoint."
        )


class Sampler:
    """Samples the new tokens of a text.

    The random numbers of each token are sampled once, in the order of the tokens, so that sampling a token again from
    the same logits gives the same token. This makes speculative decoding exact.

    Args:
        temperature: Divides the logits; 0 always takes the most likely token.
        top_k: Sample from the k most likely tokens; 0: from all.
        top_p: Sample from the smallest set of most likely tokens with at least this total probability.
        generator: Random generator on the device of the logits; by default torch's own.

    Raises:
        UserError: A setting is out of range.
    """

    def __init__(
        self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        are_numbers = all(isinstance(value, Real) for value in (temperature, top_k, top_p))
        if not (are_numbers and temperature >= 0 and top_k >= 0 and 0 < top_p <= 1):
            raise UserError(
                f"temperature {temperature}, top_k {top_k}, top_p {top_p} leave no token to choose.",
                "Use temperature and top_k of at least 0, and top_p above 0 and at most 1.",
            )
        self.temperature, self.top_k, self.top_p, self.generator = temperature, top_k, top_p, generator
        self.random_numbers: list[Tensor] = []  # each [batch, vocab], for new tokens from number `first_number` on
        self.first_number = 0
        self.finite: Tensor | None = None  # whether the logits since the last `check` are finite

    def __call__(self, logits: Tensor, first: int) -> Tensor:
        """Sample the new tokens number `first`, `first` + 1, …: logits [batch, time, vocab] → [batch, time]."""
        self.observe(logits_are_finite(logits))
        return self.choose(logits, first)

    @property
    def is_greedy(self) -> bool:
        return self.temperature < MIN_TEMPERATURE

    def choose(self, logits: Tensor, first: int) -> Tensor:
        """As calling the sampler, for logits that were observed."""
        if self.is_greedy:
            return logits.argmax(-1)
        begin, end = first - self.first_number, first - self.first_number + logits.shape[1]
        while len(self.random_numbers) < end:
            numbers = torch.empty_like(logits[:, 0]).exponential_(generator=self.generator)
            self.random_numbers.append(numbers.masked_fill_(numbers == 0, MIN_EXPONENTIAL))
        # of exponential random numbers with rates p, the k-th is the smallest with probability p_k
        return (self.probabilities(logits) / torch.stack(self.random_numbers[begin:end], dim=1)).argmax(-1)

    def observe(self, finite: Tensor) -> None:
        """Check whether logits are finite (a scalar): on a CPU now, elsewhere in `check`, so the host does not wait."""
        self.finite = finite if self.finite is None else self.finite & finite
        if finite.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise UserError if logits were not finite. Call it when a text is finished."""
        if self.finite is not None:
            require_finite(self.finite)
        self.finite = None

    def discard_before(self, number: int) -> None:
        """Free the random numbers of the new tokens before `number`, which will not be sampled again."""
        self.random_numbers, self.first_number = self.random_numbers[number - self.first_number :], number

    def probabilities(self, logits: Tensor) -> Tensor:  # [..., vocab] → the same
        """The probabilities after temperature, top-k and top-p."""
        logits = logits / self.temperature
        if self.top_k:
            threshold = logits.topk(min(self.top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        probabilities = logits.softmax(-1)
        if self.top_p < 1:
            ordered, index = probabilities.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # total probability of more likely tokens
            top = ordered.masked_fill((before >= self.top_p) & (before > 0), 0.0)  # always keeps the first
            probabilities = torch.zeros_like(probabilities).scatter(-1, index, top)
        return probabilities


def sample_each(samplers: Sequence[Sampler], logits: Tensor, numbers: Sequence[int]) -> list[Tensor | UserError]:
    """Sample the next token of several texts, each with its own sampler. The tokens are those of one text alone.

    Args:
        samplers: The sampler of each text.
        logits: [texts, vocab].
        numbers: The number of each new token; random numbers of earlier ones are discarded.

    Returns:
        The token of each text, a scalar, or the error if its logits are not finite.
    """
    finite = logits.amax(-1).isfinite()  # all texts at once: one by one takes 3 times as long
    most_likely = logits.argmax(-1) if any(sampler.is_greedy for sampler in samplers) else finite
    tokens: list[Tensor | UserError] = []
    for i, (sampler, number) in enumerate(zip(samplers, numbers, strict=True)):
        sampler.discard_before(number)
        try:
            sampler.observe(finite[i])
            own = logits[None, i : i + 1]
            tokens.append(most_likely[i] if sampler.is_greedy else sampler.choose(own, number)[0, 0])
        except UserError as error:
            tokens.append(error)
    return tokens
