"""Every command and flag that a message suggests exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hints import PACKAGE, find_wrong_advice, list_messages

from gpt1.cli.main import cli
from gpt1.corpus.corpus import Corpus
from gpt1.errors import UserError

MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_message_advises_only_commands_and_flags_that_exist(module: Path):
    for line, text in list_messages(module):
        assert not find_wrong_advice(text), f"{module}:{line}: {text}"


def test_the_check_finds_advice_that_does_not_exist():
    assert find_wrong_advice("Use --labels.") == ["no command has --labels"]
    assert find_wrong_advice("Run: gpt1 predict RUN --epochs 3") == ["gpt1 predict has no --epochs"]
    assert find_wrong_advice("gpt1 pretrain C --model big") == ["gpt1 pretrain has no --model big"]
    assert find_wrong_advice("See: gpt1 prdict RUN") == ["there is no gpt1 prdict"]
    assert find_wrong_advice("Use --epochs 3.", "predict") == ["gpt1 predict has no --epochs"]
    assert not find_wrong_advice("Use --epochs 3, as in gpt1 finetune T --epochs 3 --from RUN", "pretrain")


def test_every_example_in_the_help_of_a_command_parses():
    for name, command in cli.commands.items():
        for line in (command.help or "").replace("\\\n", " ").splitlines():
            assert not find_wrong_advice(line.strip(), name), line


@pytest.mark.parametrize("format", [None, "gpt1-run-files-1"])
def test_no_error_advises_deleting_a_folder_that_is_not_a_corpus(format: str | None, tmp_path: Path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": format} if format else {"name": "my site"}))
    with pytest.raises(UserError, match="is not a corpus folder") as refused:
        Corpus.open(tmp_path)
    assert "Delete" not in refused.value.fix
