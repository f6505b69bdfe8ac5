"""One message, three readers: flags on the command line, keywords in Python, fields over HTTP."""

from __future__ import annotations

import pickle
from dataclasses import fields

import pytest
from hints import COMMAND, FLAG, OTHER_PROGRAMS, PACKAGE, list_messages

from gpt1.config import FinetuneConfig, PretrainConfig, base_type, field_types
from gpt1.errors import SWITCHES, UserError, name_settings
from gpt1.serving.errors import api_error

MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.parts]


@pytest.mark.parametrize(
    ("message", "python"),
    [
        ("Did you mean --label stars?", 'Did you mean label="stars"?'),
        ("Did you mean --label 'my stars'?", "Did you mean label='my stars'?"),
        ("Use: --text COLUMN --label COLUMN", "Use: text=COLUMN label=COLUMN"),
        ("--from is missing.", "from_= is missing."),
        ("--beta1 2 is out of range.", "beta1=2 is out of range."),
        ("Use --peak-lr 1e-4, or more --epochs.", "Use peak_lr=1e-4, or more epochs=."),
        (
            "Choose another --out, or replace it with --overwrite.",
            "Choose another out=, or replace it with overwrite=True.",
        ),
        ("--no-deduplicate trains on both.", "deduplicate=False trains on both."),
        ("Use --choices C1,C2,… for it.", 'Use choices="C1,C2,…" for it.'),
        ("Run: gpt1 predict RUN --out F", "Run: gpt1 predict RUN --out F"),
        ("First line --label\ngpt1 inspect T --from RUN", "First line label=\ngpt1 inspect T --from RUN"),
    ],
)
def test_python_users_read_keywords(message: str, python: str):
    assert str(UserError(message)) == python
    assert UserError(message).problem == message  # what the command line prints


def test_http_users_read_fields():
    error = api_error(UserError("r has no column 'x'.", "Choose one of them with --text. Or use --top 3."))
    assert error.detail == "r has no column 'x'. Choose one of them with text. Or use top=3."


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_flag_is_left_for_python_users(module: object):
    for _, text in list_messages(module):  # type: ignore[arg-type]
        rest = COMMAND.sub("", name_settings(text, "{}="))
        assert not FLAG.search(OTHER_PROGRAMS.sub("", rest)), text


def test_every_switch_of_the_settings_is_known():
    for config in (FinetuneConfig, PretrainConfig):
        types = field_types(config)
        assert {f.name for f in fields(config) if base_type(types[f.name])[0] is bool} <= set(SWITCHES)


def test_an_error_survives_a_pickle():
    assert str(pickle.loads(pickle.dumps(UserError("--label x", "Use --text y.")))) == 'label="x"\nUse text="y".'
