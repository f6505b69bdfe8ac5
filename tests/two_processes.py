"""What two processes of torchrun train one after the other, since each start of them takes ten seconds.

`torchrun --nproc-per-node 2 tests/two_processes.py CORPUS FOLDER SETTINGS` trains the runs of SETTINGS (JSON, by name)
into FOLDER, and writes the problems of those that are refused to FOLDER/NAME.RANK.txt.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from gpt1.console import Console
from gpt1.errors import UserError
from gpt1.training import run
from gpt1.training.pretrain import pretrain

if __name__ == "__main__":
    corpus, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    run.report_on_exit = lambda run: nullcontext()  # type: ignore[assignment]
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for name, own in settings.items():
        try:
            pretrain(corpus, out=folder / name, progress=Console(), **own)
        except UserError as error:
            (folder / f"{name}.{rank}.txt").write_text(error.problem)
    torch.distributed.destroy_process_group()
