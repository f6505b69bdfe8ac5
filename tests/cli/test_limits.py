"""Limits of the machine: Ctrl-C, a full disk, a read-only path, closed streams, too little memory."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from workspace import CLASSIFICATION_FLAGS, TINY_FLAGS, list_files

from gpt1.cli.main import main
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training import pretrain as pretraining


def test_ctrl_c_during_tokenize_leaves_no_files(workspace: Path, tmp_path: Path):
    (tmp_path / "long.txt").write_text("a line of some words, and of more\n" * 1_000_000)
    words = ["tokenize", "long.txt", "--out", "c", "--tokenizer", str(workspace / "corpus/tokenizer"), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt1", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # processes in the background ignore it
    )
    while process.poll() is None and not list(tmp_path.glob(".c.partial/tokenizer")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # like a terminal, which signals the workers too
    _, err = process.communicate(timeout=60)  # returns when every worker has closed the pipe
    assert process.returncode == 130, err
    assert "gpt1: stopped." in err
    assert "Traceback" not in err
    assert list_files(tmp_path) == ["long.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["unigram_loss", "save", "sample_prompts"])
def test_a_signal_before_or_after_the_training_loop_prints_one_line_and_the_run_can_resume(
    where: str, number: int, workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    """While the unigram baseline is computed; while the model is written; while samples are generated."""
    words = f"pretrain {workspace / 'corpus'} --out {tmp_path / 'r'} {TINY_FLAGS} --steps 3".split()

    def stop(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        if where == "save":
            patch.setattr(Tokenizer, "save", stop)
        else:
            patch.setattr(pretraining, where, stop)
        answer = run_cli(*words)
    assert signal.getsignal(number) == handler
    assert answer.exit_code == 130
    assert answer.stderr.count("gpt1: stopped") == 1
    assert "Traceback" not in answer.stderr
    left = list_files(tmp_path)
    assert not [name for name in left if "partial" in name or "tmp" in name]
    assert bool(left) == (where != "unigram_loss")
    again = run_cli(*(last_command(answer.stderr) if left else words))
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / "r" / "results.json").exists()


def last_command(message: str) -> list[str]:
    """The words after `gpt1` of the command in the last line of a message."""
    return shlex.split(message.splitlines()[-1].partition(": gpt1 ")[2])


@pytest.mark.parametrize(
    ("where", "there"),
    [
        ("gpt1.training.finetune_setup.fit_linear_probe", "stopped before the first checkpoint of r."),
        ("gpt1.training.finetune_results.tfidf_baseline", "the results of r were complete; the state after step "),
        ("gpt1.report.sections.write_report", "The model and the results of r are complete."),
    ],
)
def test_ctrl_c_before_or_after_fine_tuning_says_what_is_there_and_gives_the_command_that_finishes_it(
    where: str, there: str, workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("reviews.csv", "runs"):
        (tmp_path / name).symlink_to(workspace / name)
    words = f"finetune reviews.csv --out r {CLASSIFICATION_FLAGS} --precision fp32 --device cpu --epochs 1".split()
    with monkeypatch.context() as patch:
        patch.setattr(where, lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        answer = run_cli(*words)
    assert answer.exit_code == 130
    assert there in answer.stderr
    again = run_cli(*last_command(answer.stderr))
    assert again.exit_code == 0, again.stderr
    assert "tfidf" in json.loads((tmp_path / "r/results.json").read_text())["baselines"]
    assert (tmp_path / "r/report.html").exists()


def test_a_signal_waits_until_an_import_has_finished(tmp_path: Path):
    """An interrupted import leaves numpy broken, and torch then fails with unrelated errors."""
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhole = True\n")
    lines = [
        "import time",
        "from gpt1.cli.exit import raise_on_signals",
        "with raise_on_signals():",
        "    import slow",
        "    print(slow.whole)",
        "    time.sleep(20)",
        "    print('went on')",
    ]
    words = [sys.executable, "-c", "\n".join(lines)]
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.stdout == "True\n"
    assert "Stopped" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
def test_a_command_works_without_a_standard_stream(closed: str, pretrained_run: Path) -> None:
    words = [sys.executable, "-m", "gpt1", "generate", str(pretrained_run), "the", "--max-tokens", "2"]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("the") or closed == "1>&-"


def run_on_small_disk(command: list[str], folder: Path, size: str) -> subprocess.CompletedProcess[str]:
    """Run `command` with a disk of that size mounted at `folder`; the last lines list the files on it afterwards."""
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("needs Linux and the right to mount a small disk (user namespaces)")
    script = f'{mount}; "$@"; code=$?; cd {folder}; echo "files:"; find . -type f; exit $code'
    words = ["unshare", "-Urm", "sh", "-c", script, "sh", sys.executable, "-m", "gpt1", *command]
    return subprocess.run(words, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux")
@pytest.mark.parametrize(
    ("command", "size"),
    [
        ("tokenize {workspace}/reviews.csv --out {disk}/c --tokenizer {workspace}/corpus/tokenizer --workers 1", "16k"),
        ("import huggingface {workspace}/theirs --out {disk}/m", "60k"),
        ("predict {workspace}/runs/reviews {workspace}/reviews.csv --out {disk}/p.csv", "4k"),
    ],
)
def test_a_full_disk_is_one_error_and_leaves_no_files(command: str, size: str, workspace: Path, tmp_path: Path):
    done = run_on_small_disk(command.format(workspace=workspace, disk=tmp_path).split(), tmp_path, size)
    assert done.returncode == 1, done.stderr
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("files:\n")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux")
def test_a_run_that_fills_the_disk_says_how_to_resume(workspace: Path, tmp_path: Path):
    words = f"pretrain {workspace / 'corpus'} --out {tmp_path / 'r'} {TINY_FLAGS} --steps 20 --checkpoint-every 5"
    done = run_on_small_disk(words.split(), tmp_path, "700k")
    assert done.returncode == 1, done.stderr
    assert "disk is full" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert ".tmp" not in done.stdout


def test_a_read_only_path_is_refused_before_the_work(workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any):
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # like a read-only disk; root can write anywhere else
    for words in (
        f"tokenize reviews.csv --out {tmp_path}/c --tokenizer runs/books",
        f"pretrain corpus --out {tmp_path}/r {TINY_FLAGS} --steps 1",
        f"finetune reviews.csv {CLASSIFICATION_FLAGS} --out {tmp_path}/r",
        f"predict runs/reviews new.csv --out {tmp_path}/p.csv",
        f"import huggingface x --out {tmp_path}/m",
    ):
        answer = run_cli(*words.split())
        assert answer.exit_code == 2
        assert "is not writable" in answer.stderr
    assert list_files(tmp_path) == []


def test_a_closed_pipe_is_not_an_error(workspace: Path):
    script = f"{sys.executable} -m gpt1 next {workspace / 'runs/books'} the --top 300 --json | head -c 5"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a pipe")
@pytest.mark.parametrize("words", ["pretrain {workspace}/corpus --steps 20 {tiny}", "tokenize {workspace}/reviews.csv"])
def test_work_continues_when_its_messages_are_no_longer_read(words: str, workspace: Path, tmp_path: Path):
    command = f"{sys.executable} -m gpt1 {words.format(workspace=workspace, tiny=TINY_FLAGS)} --out {tmp_path}/made"
    done = subprocess.run(["bash", "-c", f"{command} 2>&1 | head -c 5; exit ${{PIPESTATUS[0]}}"], capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "made" / ("model" if "pretrain" in words else "manifest.json")).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_output_that_cannot_be_written_is_an_error(workspace: Path):
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "gpt1", "next", str(workspace / "runs/books"), "the", "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "gpt1: the disk is full" in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["a", "b", "c", "d", "e", "f"], ["--precision bf16", "3 texts at a time (now 6)"]),
        (["a", "--precision", "bf16"], ["a smaller model"]),
    ],
)
def test_out_of_memory_during_generation_says_what_to_lower(
    words: list[str],
    advice: list[str],
    pretrained_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def generate(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("gpt1.inference.predictor.LanguageModel.generate", generate)
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(pretrained_run), *words])
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert all(part in message for part in ["gpt1: out of memory.", *advice])
    assert ("--precision" in message) == ("--precision bf16" in advice)
