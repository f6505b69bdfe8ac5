"""The layer of stage 2: its logits, its initial weights, its dropout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.model.head import Head


@given(counts=st.lists(st.integers(2, 5), min_size=1, max_size=4), data=st.data())
def test_probabilities_of_answers_follow_their_order(counts, data):
    torch.manual_seed(sum(counts))
    head = Head(8, 1, each=True).eval()
    example = torch.tensor([n for n, count in enumerate(counts) for _ in range(count)])
    states = torch.randn(len(example), 8)
    order, first = [], 0
    for count in counts:
        order += [first + i for i in data.draw(st.permutations(range(count)))]
        first += count
    with torch.no_grad():
        straight, shuffled = head(states, example).softmax(-1), head(states[order], example).softmax(-1)
    first = 0
    for n, count in enumerate(counts):
        assert straight[n, count:].sum() == 0  # no probability for missing answers
        moved = straight[n, [i - first for i in order[first : first + count]]]
        torch.testing.assert_close(shuffled[n, :count], moved)
        first += count


def test_a_head_adds_the_states_of_both_orders():
    torch.manual_seed(0)
    head = Head(8, 3, each=False).eval()
    states = torch.randn(4, 8)
    expected = head.linear(torch.stack([states[0] + states[1], states[2] + states[3]]))
    torch.testing.assert_close(head(states, torch.tensor([0, 0, 1, 1])), expected)


def test_a_new_head_is_initialized_as_in_the_release():
    torch.manual_seed(0)
    head = Head(768, 20, each=False)
    assert head.linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (head.linear.bias == 0).all()


def test_head_dropout_uses_one_mask_for_all_answers_of_an_example():
    torch.manual_seed(0)
    head = Head(64, 1, each=True, p=0.5).train()
    states = torch.randn(1, 64).expand(6, -1)  # every answer has the same state
    logits = head(states, torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(logits, logits[:, :1].expand(-1, 3))
    assert (logits[0, 0] - logits[1, 0]).abs() > 1e-3  # another example, another mask


def test_head_dropout_acts_in_training_only():
    torch.manual_seed(0)
    head = Head(64, 2, each=False, p=0.5).train()
    states, example = torch.randn(3, 64), torch.arange(3)
    assert not torch.equal(head(states, example), head(states, example))
    head.eval()
    assert torch.equal(head(states, example), head(states, example))
