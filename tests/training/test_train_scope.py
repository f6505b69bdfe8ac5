"""Settings of what is trained that contradict each other are refused."""

from __future__ import annotations

import pytest

from gpt1.config import FinetuneConfig
from gpt1.errors import UserError
from gpt1.training.train_scope import check_train_scope


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_blocks_cannot_be_transferred_to_a_model_from_scratch(layers: int):
    with pytest.raises(UserError, match="transfer_layers= has no effect with from_scratch=True"):
        check_train_scope(FinetuneConfig(from_scratch=True, transfer_layers=layers), 2)
    check_train_scope(FinetuneConfig(transfer_layers=layers), 2)
    check_train_scope(FinetuneConfig(from_scratch=True), 2)
