"""The OpenAPI schema, and thousands of requests made from it by schemathesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running_server import server_thread

COMMAND = Path(sys.executable).with_name("schemathesis")


@pytest.mark.slow
@pytest.mark.skipif(not COMMAND.exists(), reason="schemathesis is not installed")
def test_schemathesis_finds_nothing(workspace: Path, tmp_path: Path):
    """Without the check that valid requests are accepted: which ids, rows and labels are valid depends on the model."""
    with server_thread([workspace / "runs/books", workspace / "runs/reviews"], timeout=60) as server:
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        options = ["--max-examples", "5", "--seed", "1", "--exclude-checks", "positive_data_acceptance"]
        done = subprocess.run([COMMAND, "run", url, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "13 selected / 13 total" in done.stdout
    assert not [line for line in server.log if '"error"' in line]
