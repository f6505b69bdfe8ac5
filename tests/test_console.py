"""Terminal output: a live line in a terminal, a line now and then elsewhere, results on their own stream."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1 import console as module
from gpt1.console import Console
from gpt1.progress import Progress

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """Everything that was drawn, without colors."""
        return [line for line in re.split(r"[\r\n]+", ESCAPE.sub("", self.getvalue())) if line.strip()]


class Clock:
    """A clock that advances only when `now` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def work(progress: Progress, steps: int = 20) -> None:
    progress.begin("fine-tuning all 25.3M parameters, λ 0.5", steps)
    for i in range(steps):
        progress.advance(i + 1, loss=4.0 - i / steps, gradient_norm=1.0, tokens_per_s=9012.3)
        if i == steps // 2:
            progress.record(step=i, split="validation", loss=0.4, accuracy=0.8712)
            progress.log("best so far [0.1, 0.2]")
    progress.end()


def test_without_a_terminal_there_are_no_control_characters() -> None:
    messages, results = io.StringIO(), io.StringIO()
    console = Console(messages, results)
    work(console)
    console.log("\x1b[31mred\x07")
    console.print_probabilities([("the", 0.5), ("\x1b[2J", 0.25)])
    console.print_table(["a", "b"], [["\x1b]0;title\x07", 1.5]])
    written = messages.getvalue() + results.getvalue()
    assert all(c == "\n" or unicodedata.category(c) != "Cc" for c in written)
    assert "best so far [0.1, 0.2]" in messages.getvalue()
    assert messages.getvalue().splitlines()[-2].startswith("  100%  20/20 steps")
    assert "loss 3.05  validation accuracy 0.871  9,012 tokens/s" in messages.getvalue()


@pytest.mark.parametrize(("seconds_each", "lines"), [(0.001, 2), (1.0, (9, 12)), (60.0, (12, 230))])
def test_without_a_terminal_lines_are_rare(
    seconds_each: float, lines: int | tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, messages = Clock(monkeypatch), io.StringIO()
    console = Console(messages)
    console.begin("training", 1000)
    for i in range(1000):
        clock.now += seconds_each
        console.advance(i + 1, loss=1.0)
    console.end()
    assert messages.getvalue().count("1,000/1,000") == 1  # the end is printed once
    low, high = lines if isinstance(lines, tuple) else (lines, lines)
    assert low <= len(messages.getvalue().splitlines()) <= high


def test_without_a_terminal_the_first_line_estimates_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, messages = Clock(monkeypatch), io.StringIO()
    console = Console(messages)
    console.begin("pre-training", 1000, done=100)
    for step in (101, 102, 103):
        clock.now += 3
        console.advance(step)
    assert messages.getvalue().splitlines()[1:] == ["  101/1,000 steps: about 45 min on this machine"]


def test_without_a_terminal_a_short_operation_is_not_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, messages = Clock(monkeypatch), io.StringIO()
    console = Console(messages)
    console.begin("pre-training", 10)
    clock.now += 3
    console.advance(1)
    assert len(messages.getvalue().splitlines()) == 1


def test_the_time_left_of_a_resumed_run_counts_only_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, messages = Clock(monkeypatch), io.StringIO()
    console = Console(messages)
    console.begin("training", 1000, done=500)
    clock.now += 60
    console.advance(750)
    assert "75%  750/1,000 steps  1:00 left" in messages.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_the_live_line_never_wraps_and_restores_the_cursor(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    work(Console(terminal))
    bars = [line for line in terminal.lines if "/20" in line]
    assert bars
    assert all(len(line.rstrip()) <= width for line in bars)
    assert "20/20" in bars[-1]
    whole = r"━.*  100%  20/20  0:\d\d(  loss 3\.05(  validation accuracy 0\.871(  9,012 tokens/s)?)?)?$"
    assert width < 40 or re.search(whole, bars[-1].rstrip())  # what does not fit is dropped, not truncated
    if width >= 120:
        assert bars[-1].startswith("fine-tuning all 25.3M parameters, λ 0.5  ━")
        assert "validation accuracy 0.871" in bars[-1]
    hidden, shown = terminal.getvalue().rfind("\x1b[?25l"), terminal.getvalue().rfind("\x1b[?25h")
    assert shown > hidden >= 0


def test_an_error_restores_the_cursor() -> None:
    terminal = Terminal()

    def interrupt() -> None:
        with Console(terminal) as console:
            console.begin("training", 10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l")


def test_no_color_turns_colors_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def colors() -> list[str]:
        messages, results = Terminal(), Terminal()
        console = Console(messages, results)
        work(console)
        console.print_probabilities([("the", 0.5)])
        return re.findall(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", messages.getvalue() + results.getvalue())

    assert colors()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colors()


def test_results_and_messages_go_to_different_streams() -> None:
    messages, results = io.StringIO(), io.StringIO()
    console = Console(messages, results)
    console.log("reading")
    work(console)
    assert results.getvalue() == ""
    before = messages.getvalue()
    console.print_result("a result")
    console.print_table(["task", "score"], [["CoLA", 31.234], ["rows", 1043], ["none", None]], title="Table 4")
    console.print_probabilities([("the", 0.5)])
    assert messages.getvalue() == before
    for part in ("a result", "Table 4", "31.2", "1,043", "–", "50.0%"):
        assert part in results.getvalue()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_a_more_likely_token_never_has_a_shorter_bar(probabilities: list[float]) -> None:
    results = io.StringIO()
    Console(io.StringIO(), results).print_probabilities([(f"t{i}", p) for i, p in enumerate(probabilities)])
    lines = results.getvalue().splitlines()
    assert len(lines) == len(probabilities)
    full = [line.count("█") for line in lines]
    for p, q, a, b in zip(probabilities, probabilities[1:], full, full[1:], strict=False):
        assert p <= q or a >= b
        assert p >= q or a <= b
    assert max(full) == (module.BAR_WIDTH if max(probabilities) > 0 else 0)


def test_spaces_and_newlines_of_tokens_are_visible() -> None:
    results = io.StringIO()
    Console(io.StringIO(), results).print_probabilities([(" the", 0.4), ("\n", 0.3), (" ", 0.2), ("[bold]a b", 0.1)])
    assert [line.split("  ")[0] for line in results.getvalue().splitlines()] == ["␣the", r"\n", "␣", "[bold]a b"]


def test_an_ascii_stream_is_not_an_error() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(stream, stream)
    work(console)
    console.print_probabilities([("λ", 0.5)])
    console.print_table(["λ"], [["–"]])
    stream.flush()
    assert rb"\u03bb" in raw.getvalue()
    assert b"####" in raw.getvalue()


def test_evaluation_results_are_printed_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"accuracy": 0.871, "f1": 0.5, "loss": 0.4}
    module.print_metrics({"metrics": metrics, "interval": {"accuracy": [0.8, 0.9]}, "f1_of": "macro", "rows": 1234})
    out, err = capsys.readouterr()
    assert err == ""
    for part in ("1,234 rows", "0.871", "95% confidence interval", "[0.800, 0.900]", "F1 (macro)", "0.400"):
        assert part in out


@pytest.mark.parametrize("width", [32, 40, 60, 80])
def test_results_are_complete_in_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    tokens = ["misunderstandings", "understand…", "이해하다", "a"]
    terminal = Terminal()
    Console(terminal, terminal).print_probabilities([(token, 0.5 / 2**i) for i, token in enumerate(tokens)])
    for line, token, percent in zip(terminal.lines, tokens, ("50.0", "25.0", "12.5", "6.2"), strict=True):
        assert re.fullmatch(rf"{token} +{percent}%  [█-▏]+ *", line)

    terminal = Terminal()
    rows = [["identifier_of_the_row", "whole numbers"], ["label", "words"]]
    Console(terminal, terminal).print_table(["column", "type", "empty"], [[*row, 1234] for row in rows])
    head, *body = re.split("─+", "\n".join(terminal.lines))
    for text, whole in ((head, ["column", "type"]), ("".join(body), rows[0] + rows[1])):
        drawn = re.sub(r"\s|1,234", "", text)
        assert sorted(drawn.replace("empty", "")) == sorted("".join(whole).replace(" ", ""))


def test_the_console_loads_neither_rich_nor_torch_before_they_are_needed() -> None:
    code = "import sys, gpt1.console; gpt1.console.Console().log('x'); print({'rich', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
