"""What `gpt1 inspect` found, for a person who is tired: what it is, how much, what is odd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpt1 import formatting
from gpt1.console import Console
from gpt1.formatting import counted

Facts = Mapping[str, Any]
MOST_LABELS = 20
LONG_TEXTS = {
    "cut": "cut at the context",
    "head-tail": "head and tail kept",
    "windows": "read in windows, predictions averaged",
}
NOT_SHOWN = {"missing": "not here", "broken": "broken", "not_read": "not read"}


def show(found: Facts) -> None:
    """Print facts on standard output; their `next` is for the caller to say."""
    console = Console()
    SHOWN[found["what"]](found, console)
    odd = found["odd"]
    if odd:
        console.show("odd:")
        for sentence in odd:
            console.show(f"  {sentence}")
    else:
        console.show("nothing odd")


def table(found: Facts, console: Console) -> None:
    console.show(
        f"{found['name']}: a table, {counted(found['rows'], 'row')}, {counted(len(found['columns']), 'column')}"
    )
    rows = [
        [name, column["holds"], column["empty"], column["different"], column["example"]]
        for name, column in found["columns"].items()
    ]
    console.table(["column", "holds", "empty", "different", "for example"], rows)
    task(found, console)
    inside(found, console)


def task(found: Facts, console: Console) -> None:
    console.show(f"it looks like: {found['task']['flags']}")


def inside(found: Facts, console: Console) -> None:
    """Labels, lengths, tokens, repeats."""
    labels: Mapping[str, int] = found.get("labels", {})
    rows = found["rows"]
    if labels:
        shown = [[name, n, f"{n / rows:.1%}"] for name, n in list(labels.items())[:MOST_LABELS]]
        if len(labels) > MOST_LABELS:
            shown.append([f"and {len(labels) - MOST_LABELS:,} more", sum(list(labels.values())[MOST_LABELS:]), ""])
        console.table(["label", "rows", "share"], shown)
    if scores := found.get("scores"):
        numbers = (f"{name} {formatting.number(value)}" for name, value in scores.items())
        console.show(f"scores: {', '.join(numbers)}")
    if texts := found["texts"]:
        names = [name for name in next(iter(texts.values())) if name != "empty"]
        console.table(
            ["characters of", *names], [[name, *(of_column[key] for key in names)] for name, of_column in texts.items()]
        )
    if tokens := found.get("tokens"):
        tokens_line(tokens, console)
    other = f", {found['contradictions']:,} of them with another label" if found["contradictions"] else ""
    console.show(f"{counted(found['duplicates'], 'duplicate')}{other}" if found["duplicates"] else "no duplicates")


def tokens_line(tokens: Facts, console: Console) -> None:
    if not tokens["rows"]:
        return
    spread = ", ".join(f"{name} {tokens[name]:,}" for name in ("least", "median", "95 %", "greatest"))
    console.show(f"tokens a row, for {tokens['model']} ({tokens['rows']:,} rows counted): {spread}")
    console.show(f"{tokens['unknown']:.2%} of the tokens unknown; {length(tokens)}")


def length(tokens: Facts) -> str:
    context = tokens["context"]
    if tokens["long"] == "windows":
        return f"{tokens['in_windows']:.1%} of the rows read in windows of its context of {context}"
    kept = ", head and tail kept" if tokens["long"] == "head-tail" else ""
    return f"{tokens['cut']:.1%} of the rows cut at its context of {context}{kept}"


def data_set(found: Facts, console: Console) -> None:
    score = " (a score)" if found["task"]["score"] else ""
    console.show(f"{found['title']}: {found['task']['kind']}{score}, measured by {' and '.join(found['metrics'])}")
    rows = []
    for name, split in found["splits"].items():
        here, official = split.get("rows"), split["official"]
        verdict = next((said for key, said in NOT_SHOWN.items() if key in split), "")
        if here and official:
            verdict = "as it should be" if here == official else "another number"
        rows.append([name, here, official, verdict])
    console.table(["split", "rows", "official", ""], rows)
    console.show(found["home"])
    if inner := found.get("table"):
        console.show(f"of {inner['name']}:")
        inside(inner, console)


def corpus(found: Facts, console: Console) -> None:
    lengths = found["document_tokens"]
    console.show(f"{found['name']}: a corpus, every file as its manifest says (SHA-256)")
    facts(
        console,
        [
            ("tokens", f"{found['tokens']:,}"),
            ("documents", f"{found['documents']:,} from {counted(found['sources'], 'file')}"),
            ("tokens a document", f"{lengths['least']:,} to {lengths['greatest']:,}, median {lengths['median']:,}"),
            ("text", f"{found['bytes'] / 1e6:,.1f} MB, {found['bytes_a_token']:.2f} bytes a token"),
            ("unknown", f"{found['unknown']:.3%} of the tokens"),
            ("tokenizer", tokenizer_line(found["tokenizer"])),
            *[("same tokenizer as", run) for run, same in found.get("same_tokenizer_as", {}).items() if same],
        ],
    )


def run(found: Facts, console: Console) -> None:
    stage = "pre-training" if found["stage"] == "pretrain" else "fine-tuning"
    state = "finished" if found["finished"] else "not finished"
    console.show(f"{found['name']}: a {stage} run, {state}, {found['updates']:,} updates")
    lines = [(name, str(value)) for name, value in flat(found["command"]).items() if value]
    lines.append(("settings", ", ".join(f"{name} {setting(value)}" for name, value in found["settings"].items())))
    if found["precision"]:
        lines.append(("precision", found["precision"]))
    if found["train_loss"] is not None:
        lines.append(("training loss", formatting.number(found["train_loss"])))
    results = found["results"]
    metrics = (results.get("validation") or {}).get("metrics")
    if metrics:  # of the epoch that was kept, calibrated
        lines.append(("held out", f"{measured(metrics)} (epoch {results.get('best_epoch')}, the best)"))
    elif held_out := measured(found["validation"]):
        lines.append(("held out", held_out))
    if unigram := results.get("unigram"):
        lines.append(("a unigram model", measured(unigram)))
    if results.get("seconds"):
        lines.append(("time", formatting.duration(results["seconds"])))
    steps = found["checkpoints"]
    whole = found["newest_whole_checkpoint"]
    said = ", ".join(f"{step} (whole)" if step == whole else str(step) for step in steps)
    lines.append(("checkpoints", f"after update {said}" if steps else "none"))
    if found["report"]:
        lines.append(("report", found["report"]))
    facts(console, lines)


def several(found: Facts, console: Console) -> None:
    console.show(f"{found['name']}: {counted(len(found['runs']), 'run')}")
    rows = []
    for one in found["runs"]:
        state = "" if one["finished"] else "not finished"
        kept = (one["results"].get("validation") or {}).get("metrics")
        rows.append([one["name"], one["stage"], one["updates"], state, measured(kept or one["validation"])])
    console.table(["run", "stage", "updates", "", "held out"], rows)


def model(found: Facts, console: Console) -> None:
    shape = found["shape"]
    task = found.get("task")
    what = f"a model fine-tuned for {task['kind']}" if task else "a pre-trained model"
    home = {"huggingface": " of Hugging Face", "openai": " of OpenAI's release"}.get(found.get("home", ""), "")
    console.show(f"{found['name']}: {what}{home}")
    lines = [
        ("shape", f"{shape['n_layer']} blocks, {shape['n_head']} heads, {shape['n_embd']} wide"),
        ("context", f"{shape['context']:,} tokens"),
        ("weights", f"{formatting.amount(found['parameters'])} ({found['bytes'] / 1e6:,.1f} MB on disk)"),
        ("vocabulary", f"{shape['vocab_size']:,} tokens"),
    ]
    if "tokenizer" in found:
        lines[-1] = ("tokenizer", tokenizer_line(found["tokenizer"]))
    if task:
        lines.append(("columns", ", ".join(f"{role} = {name}" for role, name in task["columns"].items())))
        if task["labels"]:
            lines.append(("labels", listed(task["labels"])))
        lines.append(("trained", str(task["trained"])))
        lines.append(("long texts", LONG_TEXTS[task["long"]]))
        if task["temperature"] != 1:
            lines.append(("calibrated", f"temperature {formatting.number(task['temperature'])}"))
    facts(console, lines)


def tokenizer(found: Facts, console: Console) -> None:
    console.show(f"{found['name']}: a tokenizer, {tokenizer_line(found['tokenizer'])}")


def texts(found: Facts, console: Console) -> None:
    formats = ", ".join(f"{n:,} .{kind}" for kind, n in found["formats"].items())
    console.show(
        f"{found['name']}: {counted(found['files'], 'file')} of text ({formats}), {found['bytes'] / 1e6:,.1f} MB"
    )


SHOWN: dict[str, Callable[[Facts, Console], None]] = {
    "table": table,
    "data set": data_set,
    "corpus": corpus,
    "run": run,
    "model": model,
    "tokenizer": tokenizer,
    "texts": texts,
    "runs": several,
}


def facts(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        console.show(f"  {name:<{width}}  {value}")


def flat(command: Facts) -> dict[str, Any]:
    return {
        name: ", ".join(f"{role} = {column}" for role, column in value.items()) if isinstance(value, Mapping) else value
        for name, value in command.items()
    }


def measured(figures: Facts) -> str:
    left_out = ("split", "seconds", "step", "epoch")
    return ", ".join(
        formatting.measurement(name, value)
        for name, value in figures.items()
        if name not in left_out and isinstance(value, int | float)
    )


def tokenizer_line(about: Facts) -> str:
    return f"{about['vocab_size']:,} tokens, {about['pipeline']} pipeline, {about['fingerprint'][:12]}…"


def listed(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:MOST_LABELS])
    return shown if len(labels) <= MOST_LABELS else f"{shown} … ({len(labels):,} in all)"


def setting(value: Any) -> str:
    return formatting.plain(value) if isinstance(value, float) else str(value)
