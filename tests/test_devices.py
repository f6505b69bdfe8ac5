"""`--precision auto` depends on the features of the hardware, never on a measurement."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from gpt1 import devices

ARM = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd {}i8mm\nCPU implementer\t: 0x41\n"
X86 = "processor\t: 0\nmodel name\t: a CPU with bf16\nflags\t\t: fpu avx2 avx512f {}\nbugs\t\t: amx_bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "feature"),
    [
        (X86.format("avx512_bf16"), "avx512_bf16"),
        (X86.format("avx512_bf16 amx_tile amx_bf16 amx_int8"), "amx_bf16"),
        (X86.format("avx512_vnni"), None),
        (ARM.format("bf16 "), "bf16"),
        (ARM.format(""), None),
        ("processor : 0\nhart : 0\nisa : rv64imafdc\n", None),
        ("", None),
    ],
)
def test_auto_is_bf16_exactly_on_cpus_with_bf16_instructions(
    cpuinfo: str, feature: str | None, monkeypatch: pytest.MonkeyPatch
):
    features = devices.cpuinfo_features(cpuinfo)
    assert devices.bf16_feature(features) == feature
    monkeypatch.setattr(devices, "cpu_features", lambda: features)
    found = devices.resolve_precision("auto", torch.device("cpu"))
    if feature:
        assert found == (torch.bfloat16, f"bf16 (auto: this CPU has {feature})")
    else:
        assert found == (torch.float32, "fp32 (auto: this CPU has no native bf16)")
        assert devices.resolve_precision("bf16", torch.device("cpu"))[1].startswith("bf16 (slow here")


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_gpus_since_ampere(capability: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    major, minor = capability
    expected = f"{dtype} (auto: this GPU has compute capability {major}.{minor})"
    assert devices.resolve_precision("auto", torch.device("cuda"))[1] == expected


def test_the_features_of_this_cpu_agree_with_torch():
    if not (capabilities := getattr(torch.cpu, "get_capabilities", dict)()) or not torch.backends.mkldnn.is_available():
        pytest.skip("this torch does not report CPU features")
    for name in ("amx_bf16", "avx512_bf16"):
        assert (name in devices.cpu_features()) == bool(capabilities.get(name))


def test_bf16_is_correct_on_a_cpu_without_bf16_instructions():
    code = """
import torch
from gpt1.config import GPTConfig
from gpt1.model.gpt import GPT
torch.manual_seed(0)
gpt = GPT(GPTConfig(vocab_size=64, context=16, n_layer=2, n_head=2, n_embd=32)).eval()
ids = torch.randint(0, 64, (2, 16))
exact = gpt(ids)
gpt.activation_dtype = torch.bfloat16
print(float((gpt(ids).float() - exact).abs().max() / exact.abs().max()))
"""
    without = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **without}, capture_output=True, text=True, check=True
    )
    assert 0 < float(answer.stdout) < 0.05
