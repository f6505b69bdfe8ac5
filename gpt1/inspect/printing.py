"""Print the facts of `gpt1 inspect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpt1 import formatting
from gpt1.console import Console
from gpt1.formatting import count_noun, format_size
from gpt1.inspect.tables import Facts
from gpt1.tables.facts import format_rows_have
from gpt1.tasks.labels import format_labels

MAX_LABELS_SHOWN = 20
LONG_TEXT_DESCRIPTIONS = {
    "cut": "truncated to the context",
    "head-tail": "head and tail kept",
    "windows": "read in windows, predictions averaged",
}
SPLIT_STATUS = {"missing": "missing", "broken": "broken", "not_read": "not read"}


def print_facts(facts: Facts) -> None:
    """Print facts on standard output, without `next`."""
    console = Console()
    PRINTERS[facts["type"]](facts, console)
    console.print_result("warnings:" if facts["warnings"] else "no warnings")
    for sentence in facts["warnings"]:
        console.print_result(f"  {sentence}")


def print_table(facts: Facts, console: Console) -> None:
    console.print_result(
        f"{facts['name']}: a table, {count_noun(facts['rows'], 'row')}, {count_noun(len(facts['columns']), 'column')}"
    )
    keys = ["type", "empty", "distinct", "mean", "example"]
    if not any("mean" in column for column in facts["columns"].values()):
        keys.remove("mean")
    rows = [[name, *map(column.get, keys)] for name, column in facts["columns"].items()]
    console.print_table(["column", *keys], rows)
    console.print_result(f"likely task: {facts['task']['flags']}")
    print_label_facts(facts, console)


def print_label_facts(facts: Facts, console: Console) -> None:
    """Print labels, lengths, tokens and duplicates."""
    labels: Mapping[str, int] = facts.get("labels", {})
    rows = facts["rows"]
    if labels:
        shown = [[name, n, f"{n / rows:.1%}"] for name, n in list(labels.items())[:MAX_LABELS_SHOWN]]
        if len(labels) > MAX_LABELS_SHOWN:
            shown.append(
                [f"and {len(labels) - MAX_LABELS_SHOWN:,} more", sum(list(labels.values())[MAX_LABELS_SHOWN:]), ""]
            )
        console.print_table(["label", "rows", "share"], shown)
    if scores := facts.get("scores"):
        numbers = (f"{display_name(name)} {formatting.format_number(value)}" for name, value in scores.items())
        console.print_result(f"scores: {', '.join(numbers)}")
    if texts := facts["texts"]:
        names = [name for name in next(iter(texts.values())) if name != "empty"]
        console.print_table(
            ["characters of", *map(display_name, names)],
            [[name, *(lengths[key] for key in names)] for name, lengths in texts.items()],
        )
    if tokens := facts.get("tokens"):
        print_token_facts(tokens, console)
    other = f", {facts['contradictions']:,} of them with another label" if facts["contradictions"] else ""
    console.print_result(
        f"duplicates: {format_rows_have(facts['duplicates'])} the same text as an earlier row{other}; "
        f"{format_rows_have(facts['duplicate_rows'])} the same cells in every column"
        if facts["duplicates"] or facts["duplicate_rows"]
        else "no duplicates"
    )


def print_token_facts(tokens: Facts, console: Console) -> None:
    if not tokens["rows"]:
        return
    lengths = ", ".join(f"{display_name(name)} {tokens[name]:,}" for name in ("min", "median", "p95", "max"))
    counted = count_noun(tokens["rows"], "row")
    console.print_result(f"tokens per row with {tokens['model']} ({counted} counted): {lengths}")
    console.print_result(f"{tokens['unknown_share']:.2%} of the tokens unknown; {format_truncation(tokens)}")


def display_name(key: str) -> str:
    return {"p95": "95th percentile"}.get(key, key)


def format_truncation(tokens: Facts) -> str:
    context = tokens["context"]
    if tokens["long"] == "windows":
        return f"{tokens['windowed_share']:.1%} of the rows read in windows of {context} tokens"
    kept = ", head and tail kept" if tokens["long"] == "head-tail" else ""
    return f"{tokens['truncated_share']:.1%} of the rows truncated to {context} tokens{kept}"


def print_dataset(facts: Facts, console: Console) -> None:
    score = " (a score)" if facts["task"]["score"] else ""
    console.print_result(f"{facts['title']}: {facts['task']['kind']}{score}, metrics: {' and '.join(facts['metrics'])}")
    rows = []
    for name, split in facts["splits"].items():
        count, official = split.get("rows"), split["official_rows"]
        status = next((text for key, text in SPLIT_STATUS.items() if key in split), "")
        if count and official:
            status = "complete" if count == official else "differs"
        rows.append([name, count, official, status])
    console.print_table(["split", "rows", "official", "status"], rows)
    console.print_result(facts["download_hint"])
    if inner := facts.get("table"):
        console.print_result(f"{inner['name']}:")
        print_label_facts(inner, console)


def print_corpus(facts: Facts, console: Console) -> None:
    lengths = facts["document_tokens"]
    console.print_result(f"{facts['name']}: a corpus, all files match its manifest (SHA-256)")
    print_key_values(
        console,
        [
            ("tokens", f"{facts['tokens']:,}"),
            ("documents", f"{facts['documents']:,} from {count_noun(facts['sources'], 'file')}"),
            ("tokens per document", f"{lengths['min']:,} to {lengths['max']:,}, median {lengths['median']:,}"),
            ("text", f"{format_size(facts['bytes'])}, {facts['bytes_per_token']:.2f} bytes per token"),
            ("unknown", f"{facts['unknown_share']:.3%} of the tokens"),
            ("tokenizer", format_tokenizer(facts["tokenizer"])),
            *[("same tokenizer as", run) for run, same in facts.get("same_tokenizer_as", {}).items() if same],
        ],
    )


def print_run(facts: Facts, console: Console) -> None:
    stage = "pre-training" if facts["stage"] == "pretrain" else "fine-tuning"
    state = "finished" if facts["finished"] else "in progress" if facts["in_progress"] else "not finished"
    console.print_result(f"{facts['name']}: a {stage} run, {state}, {count_noun(facts['steps'], 'step')}")
    lines = [(name, str(value)) for name, value in flatten_command(facts["command"]).items() if value]
    lines.append(
        ("settings", ", ".join(f"{name} {format_setting_or_text(value)}" for name, value in facts["settings"].items()))
    )
    if facts["precision"]:
        lines.append(("precision", facts["precision"]))
    if facts["train_loss"] is not None:
        lines.append(("training loss", formatting.format_number(facts["train_loss"])))
    results = facts["results"]
    metrics = (results.get("validation") or {}).get("metrics")
    if metrics:  # of the best epoch, calibrated
        lines.append(("validation", f"{format_metrics(metrics)} (best epoch: {results.get('best_epoch')})"))
    elif last_validation := format_metrics(facts["validation"]):
        lines.append(("validation", last_validation))
    if unigram := results.get("unigram"):
        lines.append(("unigram model", format_metrics(unigram)))
    if results.get("seconds"):
        lines.append(("time", formatting.format_duration(results["seconds"])))
    steps = facts["checkpoints"]
    verified = facts["latest_verified_checkpoint"]
    listed = ", ".join(f"{step} (verified)" if step == verified else str(step) for step in steps)
    lines.append(("checkpoints", f"after step {listed}" if steps else "none"))
    if facts["report"]:
        lines.append(("report", facts["report"]))
    print_key_values(console, lines)


def print_runs(facts: Facts, console: Console) -> None:
    console.print_result(f"{facts['name']}: {count_noun(len(facts['runs']), 'run')}")
    rows = []
    for run in facts["runs"]:
        state = "" if run["finished"] else "in progress" if run["in_progress"] else "not finished"
        best = (run["results"].get("validation") or {}).get("metrics")
        rows.append([run["name"], run["stage"], run["steps"], state, format_metrics(best or run["validation"])])
    console.print_table(["run", "stage", "steps", "", "validation"], rows)


def print_model(facts: Facts, console: Console) -> None:
    shape = facts["shape"]
    task = facts.get("task")
    what = describe_stage(task)
    source = {"huggingface": " from Hugging Face", "openai": " from OpenAI's release"}.get(facts.get("format", ""), "")
    console.print_result(f"{facts['name']}: {what}{source}")
    lines = [
        ("shape", f"{shape['n_layer']} blocks, {shape['n_head']} heads, width {shape['n_embd']}"),
        ("context", f"{shape['context']:,} tokens"),
        ("parameters", f"{formatting.format_large_count(facts['parameters'])} ({format_size(facts['bytes'])} on disk)"),
        ("vocabulary", f"{shape['vocab_size']:,} tokens"),
    ]
    if "tokenizer" in facts:
        lines[-1] = ("tokenizer", format_tokenizer(facts["tokenizer"]))
    print_key_values(console, [*lines, *task_lines(task)])


def describe_stage(task: Facts | None) -> str:
    return f"a model fine-tuned for {task['kind']}" if task else "a pre-trained model"


def task_lines(task: Facts | None) -> list[tuple[str, str]]:
    if not task:
        return []
    lines = [("columns", ", ".join(f"{role} = {name}" for role, name in task["columns"].items()))]
    if task["labels"]:
        lines.append(("labels", format_labels(task["labels"], MAX_LABELS_SHOWN)))
    if task["train"]:  # not known of a model that transformers wrote
        lines.append(("trained", str(task["train"])))
    lines.append(("long texts", LONG_TEXT_DESCRIPTIONS[task["long"]]))
    if task["temperature"] != 1:
        lines.append(("calibrated", f"temperature {formatting.format_number(task['temperature'])}"))
    return lines


def print_onnx(facts: Facts, console: Console) -> None:
    task = facts.get("task")
    console.print_result(f"{facts['name']}: an ONNX export of {describe_stage(task)}")
    lines = [("size", format_size(facts["bytes"])), ("tokenizer", format_tokenizer(facts["tokenizer"]))]
    print_key_values(console, [*lines, *task_lines(task)])


def print_tokenizer(facts: Facts, console: Console) -> None:
    console.print_result(f"{facts['name']}: a tokenizer, {format_tokenizer(facts['tokenizer'])}")


def print_texts(facts: Facts, console: Console) -> None:
    formats = ", ".join(f"{n:,} .{kind}" for kind, n in facts["formats"].items())
    console.print_result(
        f"{facts['name']}: {count_noun(facts['files'], 'file')} of text ({formats}), {format_size(facts['bytes'])}"
    )


PRINTERS: dict[str, Callable[[Facts, Console], None]] = {
    "table": print_table,
    "data set": print_dataset,
    "corpus": print_corpus,
    "run": print_run,
    "model": print_model,
    "onnx": print_onnx,
    "tokenizer": print_tokenizer,
    "texts": print_texts,
    "runs": print_runs,
}


def print_key_values(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        console.print_result(f"  {name:<{width}}  {value}")


def flatten_command(command: Facts) -> dict[str, Any]:
    return {
        name: ", ".join(f"{role} = {column}" for role, column in value.items()) if isinstance(value, Mapping) else value
        for name, value in command.items()
        if name != "given"  # names of settings
    }


def format_metrics(metrics: Facts) -> str:
    omitted = ("split", "seconds", "step", "epoch")
    return ", ".join(
        formatting.format_metric(name, value)
        for name, value in metrics.items()
        if name not in omitted and isinstance(value, int | float)
    )


def format_tokenizer(tokenizer: Facts) -> str:
    return f"{tokenizer['vocab_size']:,} tokens, {tokenizer['pipeline']} pipeline, {tokenizer['fingerprint'][:12]}…"


def format_setting_or_text(value: Any) -> str:
    return formatting.format_setting(value) if isinstance(value, float) else str(value)
