"""Untrusted text cannot control the terminal: names, columns, labels and texts with escape sequences."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workspace import TINY_FLAGS

import gpt1
from gpt1.formatting import CONTROL, shell_quote
from gpt1.tables.table import read_table, write_table

NASTY = "\x1b[45;93mX\x1b]0;title\x07\x9b2J\x08\r\n\u202e\u2066[red]"
FILE = "\x1b[45;93mf\x07\r\nforged: line\u202e"


def assert_printable(text: str) -> None:
    assert {found for found in CONTROL.findall(text) if found not in "\n\t"} == set()
    assert not any(line.startswith("forged") for line in text.splitlines())


@pytest.fixture(scope="module")
def escape_folder(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where every file name, column and cell contains escape sequences."""
    from gpt1.training.finetune import finetune

    folder = tmp_path_factory.mktemp("nasty") / FILE
    folder.mkdir()
    labels = [f"{NASTY}a", f"{NASTY}b"]
    rows = [{"id": i, f"t{NASTY}": f"{NASTY} {i}", f"l{NASTY}": labels[i % 2]} for i in range(24)]
    write_table(folder / f"{FILE}.csv", rows)
    write_table(folder / f"{FILE}.jsonl", rows)
    (folder / f"{FILE}.txt").write_text(f"{NASTY} some words\n" * 40, encoding="utf-8")
    train = {"kind": "classification", "text": f"t{NASTY}", "label": f"l{NASTY}"}
    settings = {"from_": workspace / "runs/books", "epochs": 1, "precision": "fp32", "device": "cpu"}
    finetune(folder / f"{FILE}.csv", out=folder / "run", **train, **settings)
    return folder


T, L = f"t{NASTY}", f"l{NASTY}"
COMMANDS = {
    "inspect a table": ["inspect", f"{FILE}.csv"],
    "inspect texts": ["inspect", f"{FILE}.txt"],
    "inspect a run": ["inspect", "run"],
    "inspect as json": ["inspect", f"{FILE}.csv", "--json"],
    "inspect nothing": ["inspect", NASTY],
    "tokenize": ["tokenize", f"{FILE}.txt", "--out", FILE, "--vocab-size", "270", "--pipeline", "lossless"],
    "pretrain": ["pretrain", FILE, "--out", f"r{FILE}", *TINY_FLAGS.split(), "--steps", "1"],
    "inspect a corpus": ["inspect", FILE],
    "inspect a run of a bad name": ["inspect", f"r{FILE}"],
    "finetune": [
        *["finetune", f"{FILE}.csv", "--kind", "classification", "--text", T, "--label", L],
        *["--from", f"r{FILE}", "--out", f"q{FILE}", "--epochs", "1", "--precision", "fp32", "--device", "cpu"],
    ],
    "finetune without a column": [
        *["finetune", f"{FILE}.csv", "--kind", "classification", "--text", NASTY, "--label", L],
        *["--from", f"r{FILE}", "--out", "z"],
    ],
    "evaluate": ["evaluate", "run", f"{FILE}.csv"],
    "evaluate as json": ["evaluate", "run", f"{FILE}.csv", "--json"],
    "evaluate without labels": ["evaluate", "run", f"{FILE}.txt"],
    "predict": ["predict", "run", f"{FILE}.csv", "--out", f"p{FILE}.csv"],
    "predict to nowhere": ["predict", "run", f"{FILE}.csv", "--out", f"{FILE}.doc"],
    "predict what does not fit": ["predict", "run", f"{FILE}.csv", "--out", f"{FILE}.tsv"],
    "next": ["next", "run", NASTY],
    "next as json": ["next", "run", NASTY, "--json"],
    "generate": ["generate", "run", NASTY, f"2{NASTY}", "--max-tokens", "3"],
    "generate as json": ["generate", "run", NASTY, "--max-tokens", "3", "--json"],
    "generate one text": ["generate", "run", NASTY, "--max-tokens", "3", "--stop", NASTY],
    "score": ["score", "run", NASTY],
    "score as json": ["score", "run", NASTY, "--json"],
    "features": ["features", "run", f"{FILE}.csv", "--text", T, "--out", f"f{FILE}.jsonl"],
    "features without a column": ["features", "run", f"{FILE}.csv", "--text", NASTY, "--out", f"f{FILE}.jsonl"],
    "zeroshot": [
        *["zeroshot", f"{FILE}.csv", "--run", "run", "--kind", "classification", "--text", T, "--label", L],
        *["--words", f"{NASTY}a=x,{NASTY}b=y"],
    ],
    "curve": ["curve", f"{FILE}.csv", "--from", NASTY, "--out", FILE, "--kind", NASTY],
    "reproduce": ["reproduce", NASTY],
    "import": ["import", "huggingface", FILE, "--out", "m"],
    "export": ["export", "huggingface", "run", "--out", f"e{FILE}"],
    "an unknown command": [NASTY],
    "an unknown flag": ["predict", f"--{NASTY}"],
    "a flag of a wrong type": ["next", "run", "x", "--top", NASTY],
}


def test_no_command_prints_control_characters(escape_folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(escape_folder)
    succeeded = set()
    for name, words in COMMANDS.items():
        answer = run_cli(*words)
        assert_printable(answer.stdout + answer.stderr)
        assert answer.stdout + answer.stderr, name
        succeeded |= {name} if answer.exit_code == 0 else set()
    assert {"inspect a table", "pretrain", "finetune", "evaluate", "predict", "next", "generate"} <= succeeded
    assert {"generate one text", "score", "features"} <= succeeded
    assert read_table(f"p{FILE}.csv").rows[0][T] == f"{NASTY} 0"  # files keep the data unchanged


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_rows_are_escaped_in_a_terminal_and_unchanged_in_a_pipe(ending: str, escape_folder: Path):
    command = [sys.executable, "-m", "gpt1", "predict", "run", f"{FILE}.{ending}"]
    piped = subprocess.run(command, cwd=escape_folder, capture_output=True, check=True)
    copy = escape_folder / f"piped.{ending}"
    copy.write_bytes(piped.stdout)
    assert read_table(copy).rows[0][T] == f"{NASTY} 0"
    assert_printable(piped.stderr.decode())

    out, err = pty.openpty(), pty.openpty()
    with subprocess.Popen(
        command, cwd=escape_folder, stdout=out[1], stderr=err[1], env={**os.environ, "TERM": "xterm"}
    ) as run:
        os.close(out[1])
        os.close(err[1])
        printed, progress = read_all(out[0]), read_all(err[0])
    assert run.returncode == 0
    assert_printable(printed.replace("\r\n", "\n"))  # the terminal adds \r
    assert "\\x1b[45;93mX" in printed or "\\u001b[45;93mX" in printed
    assert "100%" in progress
    for sequence in ("\x1b[45;93m", "\x1b]", "\x07", "\x9b", "\x08", "\u202e"):
        assert sequence not in progress
    if ending == "jsonl":
        assert json.loads(printed.splitlines()[0])[T] == f"{NASTY} 0"


def read_all(handle: int) -> str:
    found = b""
    while True:
        try:
            data = os.read(handle, 2**16)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        found += data
    os.close(handle)
    return found.decode()


@pytest.mark.parametrize("word", [FILE, NASTY, "it's \\x $HOME `x`\x1b1", "caf\udce9\n", "plain", "two words"])
def test_a_quoted_word_is_the_same_word_in_a_shell(word: str):
    assert_printable(shell_quote(word))
    assert "\n" not in shell_quote(word)
    echoed = subprocess.run(["bash", "-c", f"printf %s {shell_quote(word)}"], capture_output=True, check=True).stdout
    assert echoed == os.fsencode(word)


PRINTERS = {"cli/output.py": {"echo"}, "console.py": {"print"}, "serving/ray_app.py": {"print"}}
"""The only places that print, escaped by gpt1.formatting or as JSON. The table writer writes bytes."""


def test_only_these_modules_print():
    package = Path(gpt1.__file__).parent
    for path in package.rglob("*.py"):
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.add("print")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if (node.value.id, node.attr) in {("click", "echo"), ("click", "secho")}:
                    found.add("echo")
                elif (node.value.id, node.attr) in {("sys", "__stdout__"), ("sys", "__stderr__")}:
                    found.add(node.attr)
            elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout.write", "sys.stderr.write"):
                found.add("write")
        assert found <= PRINTERS.get(path.relative_to(package).as_posix(), set()), path
