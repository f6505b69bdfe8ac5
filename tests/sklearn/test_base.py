"""What all estimators that fine-tune have in common: Ctrl-C, and the settings that are theirs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from sklearn.model_selection import cross_val_score

from gpt1.sklearn import GPTClassifier
from gpt1.tables.table import Table
from gpt1.training import loop

pytestmark = pytest.mark.usefixtures("no_reports")


def test_ctrl_c_ends_a_cross_validation(pretrained_run: Path, table: Table, monkeypatch: pytest.MonkeyPatch):
    steps, train_step = list[int](), loop.train_step

    def step_with_ctrl_c(*args: Any) -> Any:
        steps.append(1)
        signal.raise_signal(signal.SIGINT)
        return train_step(*args)

    monkeypatch.setattr(loop, "train_step", step_with_ctrl_c)
    model = GPTClassifier(str(pretrained_run), epochs=1, device="cpu", precision="fp32")
    texts, labels = ([row[name] for row in table.rows] for name in ("text", "label"))
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(model, texts, labels, cv=2)
    assert len(steps) == 1


@pytest.mark.parametrize("name", ["out", "from_", "kind", "label", "weight", "text", "resume"])
def test_settings_that_the_estimator_sets_itself_are_refused(name: str):
    with pytest.raises(ValueError, match=f"settings has '{name}', which the estimator sets itself"):
        GPTClassifier(settings={name: "x"}).fit(["a", "b"], [0, 1])
