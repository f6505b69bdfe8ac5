"""What the tests share: where the public data lies, and one thread for torch (the models here are tiny)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("gpt1", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("gpt1")


def shared_folder() -> Path | None:
    """GPT1_DATA, or the folder `shared` beside the checkout; None where there is neither."""
    for candidate in (os.environ.get("GPT1_DATA"), Path(__file__).parents[2] / "shared"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    return None


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("needs the public data: set GPT1_DATA, or put the folder `shared` beside the checkout")
    return folder
