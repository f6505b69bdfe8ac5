"""Mutated files through every reader: each is read or gives a clear error, in bounded time and memory.

    python tests/fuzz_foreign_files.py --count 100000             # a summary, and each finding with its number
    python tests/fuzz_foreign_files.py --first 4711 --count 1     # that finding again

Input number i (its target, mutated file and mutation) is a pure function of i. Inputs run in a child process with a
memory limit; a hang or a kill is a finding too, and the run continues with the next input.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from random import Random

SECONDS = 10
"""CPU time per input. Real time would depend on the load of the machine."""
MEMORY = 1536 * 2**20
"""Bytes of address space beyond what the child uses after all imports."""
MAX_BYTES = 2**26
"""GPT1_MAX_BYTES in the child."""
PENDING: tuple[str, ...] = ()
"""Targets whose findings are not counted yet."""


class Hang(BaseException):
    """An input that took longer than SECONDS."""


def alarm(signum: int, frame: object) -> None:
    raise Hang


def schedule(only: str) -> list[str]:
    from fuzz_targets import targets

    return [name for name, target in targets() for _ in range(target.weight) if only in name]


def child(first: int, count: int, only: str, folder: Path) -> None:
    """Run inputs first … first + count - 1. Prints one line each: number, target, file, outcome, separated by tabs."""
    import numpy  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    from fuzz_mutations import MUTATIONS, reseal
    from fuzz_targets import targets

    from gpt1.errors import GPT1Error

    torch.set_num_threads(1)
    every, names = dict(targets()), schedule(only)
    examples = folder / "valid"
    for name in dict.fromkeys(names):
        if not (examples / name).exists():
            (examples / name).mkdir(parents=True)
            every[name].make(examples / name)
            every[name].read(examples / name)  # valid files are read; and all imports happen now
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if os.path.exists("/proc") else 0
    )
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGVTALRM, alarm)
    for i in range(first, first + count):
        random = Random(i)
        name = names[i % len(names)]
        target = every[name]
        mutated = folder / "mutated"
        shutil.rmtree(mutated, ignore_errors=True)
        shutil.copytree(examples / name, mutated)
        file = random.choice(list(target.files))
        data = (examples / name / file).read_bytes()
        (mutated / file).write_bytes(MUTATIONS[target.files[file]](data, random))
        if random.random() < 0.7:
            reseal(mutated)
        print(f"{i}\t{name}\t{file}", end="", flush=True)
        outcome = "refused"
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            target.read(mutated)
            outcome = "read"
        except GPT1Error as error:
            if not error.problem.strip() or len(str(error)) > 20_000:
                outcome = f"FINDING message of {len(str(error))} characters"
        except (Exception, Hang):
            outcome = "FINDING " + traceback.format_exc().replace("\n", "\x1e")
        except BaseException as error:  # a panic of a Rust library
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            outcome = "FINDING " + traceback.format_exc().replace("\n", "\x1e")
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(f"\t{outcome}", flush=True)


def run(first: int, count: int, only: str = "") -> tuple[Counter[str], list[str]]:
    """(outcome → number of inputs, findings)."""
    outcomes: Counter[str] = Counter()
    findings = []
    end = first + count
    with tempfile.TemporaryDirectory(prefix="gpt1-fuzz-") as place:
        while first < end:
            words = [sys.executable, __file__, "--child", place, "--first", str(first), "--count", str(end - first)]
            limits = {"GPT1_MAX_BYTES": str(MAX_BYTES), "OMP_NUM_THREADS": "1", "GPT1_CACHE": f"{place}/cache"}
            source = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
            path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
            with subprocess.Popen(
                [*words, "--only", only],
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **limits, "PYTHONPATH": path},
            ) as process:
                reached = first
                for line in process.stdout or ():
                    number, name, file, *outcome = line.rstrip("\n").split("\t", 3)
                    reached = int(number) + 1
                    if not outcome:
                        findings.append(f"{number} {name} {file}: the process died: {line}")
                        outcomes["finding"] += 1
                    elif outcome[0].startswith("FINDING"):
                        findings.append(f"{number} {name} {file}\n{outcome[0]}".replace("\x1e", "\n"))
                        outcomes["finding"] += 1
                    else:
                        outcomes[outcome[0]] += 1
            if process.returncode and reached == first:
                raise RuntimeError(f"the child ended with {process.returncode} before input {first}")
            first = reached
    return outcomes, findings


def target_of(finding: str) -> str:
    """The target of a finding: `table csv` for `17 table csv rows.csv`."""
    first = finding.partition("\n")[0].partition(":")[0]
    return first.partition(" ")[2].rpartition(" ")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=3000, help="number of inputs")
    parser.add_argument("--only", default="", help="only targets whose name contains this")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.first, args.count, args.only, args.child)
        return
    outcomes, findings = run(args.first, args.count, args.only)
    for finding in findings:
        print(finding)
    print(", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common()))
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
