"""The examples of docs/sklearn.md run unchanged, with a model that takes a second and a small table of news."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = pytest.mark.usefixtures("no_reports")

PAGE = Path(__file__).parents[2] / "docs" / "sklearn.md"
TOPICS = {
    "sport": ["the match was lost in the last minute", "the coach praised the team", "a record in the race"],
    "business": ["the shares fell after the report", "the bank raised its rates", "profits of the firm grew"],
    "science": ["the probe reached the planet", "a study of cells found a cause", "the telescope saw a star"],
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_runs(pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pretrained_run, tmp_path / "runs" / "books")
    rows = [
        {"text": f"{text}, item {i}", "label": topic}
        for i in range(4)
        for topic, texts in TOPICS.items()
        for text in texts
    ]
    pd.DataFrame(rows).to_csv("news.csv", index=False)
    namespace: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), namespace)
    assert list(namespace["scores"]) == ["TF-IDF", "GPT vectors", "fine-tuned GPT"]
    assert all(values.shape == (3,) and values.mean() > 0.2 for values in namespace["scores"].values())
    assert "TF-IDF          " in capsys.readouterr().out
    assert (tmp_path / "models" / "news" / "task.json").exists()
