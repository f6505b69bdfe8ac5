"""`python -m benchmarks [NAME…]`: kernels, tokenizing, step; all of them without a name."""

from __future__ import annotations

import subprocess
import sys

NAMES = ("kernels", "tokenizing", "step")

names = sys.argv[1:] or NAMES
for name in names:
    if name not in NAMES:
        sys.exit(f"there is no benchmark '{name}'; there are: {', '.join(NAMES)}")
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
