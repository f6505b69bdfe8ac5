"""The GPU code paths give the numbers of the CPU paths, and no step waits for the device.

On a fake GPU (see fake_gpu.py), which does not test the kernels of a GPU; and on a real one, if there is one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).parents[1] / "fake_gpu.py"
REAL = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["gpu", REAL])
def device_results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    backends = pytest.importorskip("torch.utils.backend_registration")
    if not hasattr(backends, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this version of torch takes no device that is written in Python")
    folder = tmp_path_factory.mktemp(request.param)
    environment = os.environ | {"GPT1_CACHE": str(folder / "cache"), "PYTHONPATH": str(PROGRAM.parents[1])}
    program = [sys.executable, PROGRAM, folder, request.param]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {"device": request.param, **json.loads((folder / "found.json").read_text())}


def fp32_tolerance(found: dict[str, Any]) -> float:
    """Tolerance for fp32: a GPU sums in another order."""
    return 1e-6 if found["device"] == "gpu" else 1e-3


def probe_tolerance(found: dict[str, Any]) -> float:
    """As `near`, where L-BFGS has fitted the head first: its line search enlarges the differences of rounding."""
    return 1e-4 if found["device"] == "gpu" else 1e-2


def test_every_path_gives_the_losses_of_the_cpu(device_results: dict[str, Any]):
    here, there = device_results["here"], device_results["there"]
    assert list(here) == list(there)
    trained = [name for name in here if name.startswith(("pretrain", "finetune", "resumed"))]
    assert len(trained) == 21
    for name in trained:
        assert len(here[name]) >= 3, name
        probed = name.startswith("finetune")
        tolerance = (
            1e-2
            if name.endswith("bf16")
            else probe_tolerance(device_results)
            if probed
            else fp32_tolerance(device_results)
        )
        assert there[name] == pytest.approx(here[name], abs=tolerance), name


def test_a_run_stopped_on_the_gpu_resumes_to_the_same_losses(device_results: dict[str, Any]):
    assert device_results["there"]["resumed"] == pytest.approx(
        device_results["there"]["pretrain fp32"], abs=fp32_tolerance(device_results) / 10
    )


def test_predictions_and_probabilities_are_the_same(device_results: dict[str, Any]):
    predicted = [name for name in device_results["here"] if name.startswith("predict")]
    assert len(predicted) == 5
    for name in predicted:
        for row, expected in zip(device_results["there"][name], device_results["here"][name], strict=True):
            assert row == pytest.approx(expected, abs=probe_tolerance(device_results)), name
    there, here = dict(device_results["there"]["next"]), dict(device_results["here"]["next"])
    assert there == pytest.approx(here, abs=fp32_tolerance(device_results))


def test_generated_texts_are_the_same(device_results: dict[str, Any]):
    if device_results["device"] != "gpu":
        pytest.skip("a GPU has other random numbers, and rounds differently between equally likely tokens")
    for name in ("generate", "drawn", "several"):
        assert device_results["there"][name] == device_results["here"][name]


def test_no_step_waits_for_the_device(device_results: dict[str, Any]):
    if device_results["device"] != "gpu":
        pytest.skip("synchronizations of a real GPU are not recorded")
    assert any("read" in look for look in device_results["looks"])  # every ten steps, which is allowed
    assert not [look for look in device_results["looks"] if {"train_step", "step_batch"} & set(look)]


def test_no_generated_token_waits_for_the_device(device_results: dict[str, Any]):
    if device_results["device"] != "gpu":
        pytest.skip("synchronizations of a real GPU are not recorded")
    written = [look for look in device_results["looks"] if look[0] == "generate" and "decode" in look]
    assert [look[-1] for look in written] == 2 * ["require_finite"]  # once per text, at its end


def test_several_texts_are_read_once_per_step(device_results: dict[str, Any]):
    if device_results["device"] != "gpu":
        pytest.skip("synchronizations of a real GPU are not recorded")
    looks = Counter(look[-1] for look in device_results["looks"] if "step" in look and "generate_batch" in look)
    assert looks == {"append_tokens": 40, "require_finite": 4}
