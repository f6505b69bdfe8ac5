"""Sampling of the next token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.errors import UserError
from gpt1.generation.sampling import Sampler, check_finite_logits, sample_each

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -8.0]])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ((1.0, 0, 1.0), 6),
        ((0.5, 0, 1.0), 6),
        ((1.0, 3, 1.0), 3),
        ((1.0, 99, 1.0), 6),
        ((1.0, 0, 0.8), 3),  # 0.54, 0.20, 0.12: three are the first to reach 0.8
        ((2.0, 4, 0.6), 2),
        ((1.0, 0, 1e-300), 1),  # 0 in the dtype of the probabilities
    ],
)
def test_token_frequencies_follow_temperature_top_k_and_top_p(settings: tuple[float, int, float], kept: int):
    temperature, top_k, top_p = settings
    draws = 20_000
    generator = torch.Generator().manual_seed(0)
    found = Sampler(temperature, top_k, top_p, generator)(LOGITS.expand(draws, 1, -1), 0)
    frequencies = torch.bincount(found[:, 0], minlength=6) / draws
    expected = torch.zeros(6)
    expected[:kept] = (LOGITS[0] / temperature)[:kept].softmax(-1)
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=4 * 0.5 / draws**0.5)
    assert frequencies[kept:].sum() == 0


WAYS = st.sampled_from([(1.0, 0, 1.0), (0.7, 5, 0.9), (2.0, 0, 0.5), (0.0, 0, 1.0)])


def random_logits(batch: int, time: int, seed: int) -> torch.Tensor:
    return torch.randn(batch, time, 12, generator=torch.Generator().manual_seed(seed)) * 2


@given(way=WAYS, batch=st.integers(1, 3), time=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_token_is_the_same_alone_with_others_and_sampled_again(way, batch, time, seed):
    given_logits = random_logits(batch, time, seed)
    choice = Sampler(*way, torch.Generator().manual_seed(seed))
    alone = torch.cat([choice(given_logits[:, [place]], place) for place in range(time)], dim=1)
    at_once = Sampler(*way, torch.Generator().manual_seed(seed))(given_logits, 0)
    assert torch.equal(alone, at_once)
    settled = min(2, time - 1)
    choice.discard_before(settled)
    assert torch.equal(choice(given_logits[:, settled:], settled), at_once[:, settled:])


@given(ways=st.lists(WAYS, min_size=1, max_size=5), broken=st.integers(0, 5), seed=st.integers(0, 99))
def test_several_texts_get_the_tokens_that_each_gets_alone(ways: list[Any], broken: int, seed: int):
    """Also if two tokens are equally likely; logits that are not finite are an error of their text only."""
    given_logits = random_logits(len(ways), 2, seed).round()
    given_logits[broken : broken + 1, 1, 3] = torch.nan
    together, alone = ([Sampler(*way, torch.Generator().manual_seed(i)) for i, way in enumerate(ways)] for _ in "ab")
    for number in range(2):
        found = sample_each(together, given_logits[:, number], [number] * len(ways))
        for i, token in enumerate(found):
            if number == 1 and i == broken:
                assert isinstance(token, UserError)
            else:
                assert torch.equal(token, alone[i](given_logits[i : i + 1, [number]], number)[0, 0])


@given(way=WAYS, seed=st.integers(0, 99))
def test_sampling_equals_torch_multinomial_with_the_same_generator(way, seed):
    given_logits = random_logits(1, 1, seed)
    choice = Sampler(*way, torch.Generator().manual_seed(seed))
    if way[0]:
        drawn = torch.multinomial(
            choice.probabilities(given_logits[:, 0]), 1, generator=torch.Generator().manual_seed(seed)
        )
    else:
        drawn = given_logits[:, 0].argmax(-1, keepdim=True)
    assert torch.equal(choice(given_logits, 0), drawn)


def test_random_numbers_of_discarded_tokens_are_not_kept():
    choice = Sampler(generator=torch.Generator().manual_seed(0))
    for place in range(50):
        choice.discard_before(place)
        choice(random_logits(1, 3, place), place)
    assert len(choice.random_numbers) == 3


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_token_of_probability_0_is_never_sampled_even_if_the_device_samples_zeros(
    zero: float, monkeypatch: pytest.MonkeyPatch
):
    exponential = torch.Tensor.exponential_

    def draw_with_zeros(x: torch.Tensor, **how: torch.Generator) -> torch.Tensor:
        exponential(x, **how)[:, 3:] = zero
        return x

    monkeypatch.setattr(torch.Tensor, "exponential_", draw_with_zeros)
    found = Sampler(1.0, 3, 1.0, torch.Generator().manual_seed(0))(LOGITS.expand(2000, 1, -1), 0)
    assert set(found.flatten().tolist()) == {0, 1, 2}


@given(row=st.lists(st.sampled_from([0.0, 1.0, torch.inf, -torch.inf, torch.nan]), min_size=1, max_size=4))
def test_logits_without_a_finite_softmax_are_an_error(row: list[float]):
    rows = torch.tensor([[0.0] * len(row), row])
    if rows.softmax(-1).isfinite().all():
        check_finite_logits(rows)
    else:
        with pytest.raises(UserError, match="logits are not finite"):
            check_finite_logits(rows)


@pytest.mark.parametrize("way", [(-1.0, 0, 1.0), (float("nan"), 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1)])
def test_settings_that_leave_no_token_are_an_error(way: tuple[float, int, float]):
    with pytest.raises(UserError, match="leave no token to choose"):
        Sampler(*way)
