"""The model card of `starter` and the figures of its page, from the figures that `benchmarks.starter` recorded."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from gpt1.config import format_flag
from gpt1.errors import UserError
from gpt1.experiments.methods import ABLATION_METHODS
from gpt1.formatting import count_noun, shell_join
from gpt1.report.card import cell

BOOKS_SOURCE = "https://github.com/mlschmitt/classic-books-markdown"
TEXTBOOKS: dict[str, tuple[str, str]] = {
    "american-government": ("American Government", "5c90dd7907"),
    "anatomy-physiology": ("Anatomy and Physiology", "b0058a743b"),
    "astronomy": ("Astronomy", "63157f370b"),
    "business-ethics": ("Business Ethics", "d64573e280"),
    "business-law": ("Business Law I Essentials", "9d510e2126"),
    "chemistry-bundle": ("Chemistry (bundle)", "32c719622f"),
    "college-physics-bundle": ("College Physics (bundle)", "f98d7a7921"),
    "college-success-bundle": ("College Success (bundle)", "4c04b87eb2"),
    "contemporary-mathematics": ("Contemporary Mathematics", "fa7c1a1517"),
    "entrepreneurship": ("Entrepreneurship", "c1fa2c872b"),
    "introduction-anthropology": ("Introduction to Anthropology", "418eedd9be"),
    "introduction-business": ("Introduction to Business", "78c9e7ad4e"),
    "introduction-intellectual-property": ("Introduction to Intellectual Property", "be76c2d982"),
    "introduction-philosophy": ("Introduction to Philosophy", "d7bd4f0f52"),
    "introduction-political-science": ("Introduction to Political Science", "4391e659b9"),
    "introduction-python-programming": ("Introduction to Python Programming", "d6d069bb24"),
    "introduction-sociology": ("Introduction to Sociology", "d35d5f3bda"),
    "introductory-statistics-bundle": ("Introductory Statistics (bundle)", "50ec917490"),
    "life-liberty-and-pursuit-happiness": ("Life, Liberty, and the Pursuit of Happiness", "acb6fbe274"),
    "microbiology": ("Microbiology", "ecf34dad12"),
    "nursing-external-bundle": ("Nursing (bundle)", "7876f90a3d"),
    "physics": ("Physics", "ff78c7a815"),
    "principles-economics-bundle": ("Principles of Economics (bundle)", "cd31beb103"),
    "principles-finance": ("Principles of Finance", "3b7fc65c52"),
    "principles-marketing": ("Principles of Marketing", "40369d8ce3"),
    "psychology": ("Psychology", "e061043bf2"),
    "university-physics-bundle": ("University Physics (bundle)", "db44eb99e9"),
    "us-history": ("U.S. History", "046331cfce"),
    "world-history": ("World History", "3e17beda91"),
    "writing-guide": ("Writing Guide", "a6c9552839"),
}
"""Repository openstax/osbooks-NAME → (title, commit). The license at each commit was CC BY 4.0."""
COMMAND_SETTINGS = ("context", "batch_size", "peak_lr", "warmup", "schedule")
TITLES = {"textbooks": "two other textbooks", "books": "books by other authors"}

INTRODUCTION = """\
# starter

A small GPT-1 for English that comes with the package gpt1: {parameters:.1f} million parameters, of the
size `mini`, pre-trained on old books and college textbooks. It needs no network.

```
gpt1 finetune reviews.csv --label label --from starter --out runs/reviews
gpt1 next starter "the cell membrane"
```

```python
from gpt1 import load

load("starter").generate("the cell membrane")
```
"""

LIMITS = """\
## Limits

- English only. The letters of other scripts are unknown tokens.
- The texts are books from before 1929, many of them novels, and college textbooks. Chat, reviews, news
  and code are not among them. The old books have the prejudices of their time, and the model may
  repeat them.
- It is small: a start for fine-tuning. What it generates is often wrong and is not a source of facts.
- Texts are lowercased, and are read in windows of {context} tokens.
"""

LICENSE_TEXT = """\
## License and attribution

The weights and the vocabulary are under the [Creative Commons Attribution 4.0
license](https://creativecommons.org/licenses/by/4.0/) (CC BY 4.0). The code of gpt1 is under the MIT
license.

**Old books**: {books} books published before 1929, in the public domain, from
[mlschmitt/classic-books-markdown]({source}).
Headings and italics marks were removed.

**Textbooks**: by OpenStax, each at a commit at which its license was CC BY 4.0. Access for free at
[openstax.org](https://openstax.org). Changes: paragraphs with formulas, exercises, tables,
glossaries and references were left out, and the rest was turned into tokens for this model.
OpenStax does not endorse it. The books are:

"""


def model_card(record: Mapping[str, Any]) -> str:
    """README.md of gpt1/starter, with the metadata that the Hugging Face hub reads."""
    metadata = {
        "license": "cc-by-4.0",
        "language": "en",
        "library_name": "gpt1",
        "pipeline_tag": "text-generation",
        "tags": ["gpt1", "gpt-1"],
    }
    introduction = INTRODUCTION.format(parameters=last_stage(record)["parameters"] / 1e6)
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n{introduction}",
        figures(record, heading="##"),
        texts_section(record),
        recipe_section(record),
        LIMITS.format(context=record["model"]["context"]),
        license_section(record),
    ]
    return "\n".join(parts)


def figures(record: Mapping[str, Any], heading: str) -> str:
    """What was measured, for the card and for the page of the documentation."""
    parts = [validation_section(record), curve_section(record), blimp_section(record)]
    if "table5" in record:
        parts.append(table5_section(record["table5"]))
    return "\n".join(f"{heading} {part}" for part in parts)


def validation_section(record: Mapping[str, Any]) -> str:
    rows = [
        [TITLES[name], f"{one['tokens']:,}", *(f"{one[who]['bits_per_byte']:.3f}" for who in ("model", "unigram"))]
        + [f"{one[who]['perplexity']:,.1f}" for who in ("model", "unigram")]
        for name, one in record["validation"].items()
    ]
    columns = ["text", "tokens", "bits per byte", "of a unigram model", "perplexity", "of a unigram model"]
    about = f"Whole validation texts, in windows of {record['model']['context']} tokens that do not overlap. "
    about += "The unigram model knows only the token frequencies of the training text."
    return f"Text that it has not seen\n\n{paragraph(about)}\n{table(columns, rows)}"


def curve_section(record: Mapping[str, Any]) -> str:
    stages = record["stages"].values()
    rows, before = [], 0
    for stage in stages:
        for step, bits, perplexity in stage["curve"]:
            tokens = before + step * stage["batch_tokens"]
            rows.append([f"{step:,}", f"{tokens / 1e6:.1f}M", f"{bits:.3f}", f"{perplexity:.1f}"])
        before += stage["tokens_seen"]
    return f"""While it was pre-trained

On {last_stage(record)["eval_windows"]} windows of the two other textbooks.

{table(["step", "tokens seen", "bits per byte", "perplexity"], rows)}"""


def blimp_section(record: Mapping[str, Any]) -> str:
    found = record["blimp"]
    names = [name for name in ("shorter", "unigram") if name in found["baselines"]]
    whole = {"accuracy": found["metrics"]["accuracy"], "interval": found["interval"]["accuracy"], "rows": found["rows"]}
    groups = {**found["phenomena"], "**all**": {**whole, **found["baselines"]}}
    rows = [
        [name, f"{one['rows']:,}", f"{one['accuracy']:.3f}", "[{:.3f}, {:.3f}]".format(*one["interval"])]
        + [f"{one[baseline]:.3f}" for baseline in names]
        for name, one in groups.items()
    ]
    titles = {"shorter": "shorter sentence", "unigram": "unigram model"}
    columns = ["phenomenon", "pairs", "accuracy", "95% confidence interval", *(titles[name] for name in names)]
    published = ", ".join(f"{name} {score:.3f}" for name, score in found["published"].items())
    about = "The share of minimal pairs whose acceptable sentence is the more likely one. Random guessing: "
    about += f"{found['guess']:g}. Published (Warstadt et al. 2020): {published}."
    return f"Grammar: BLiMP\n\n{paragraph(about)}\n{table(columns, rows)}"


def table5_section(tasks: Sequence[Mapping[str, Any]]) -> str:
    methods = list(dict.fromkeys(method for task in tasks for method in task["ours"]))
    rows = [
        [ABLATION_METHODS[method].title, *(score_cell(task["ours"].get(method)) for task in tasks)]
        for method in methods
    ]
    rows.append(["baseline", *(f"{task['guess']:.1f}" for task in tasks)])
    columns = ["method", *(f"{task['task']} ({task['metric']})" for task in tasks)]
    return f"""Ablations: table 5 of the paper

100 × the metric, the median over seeds [min–max].

{table(columns, rows)}"""


def score_cell(scores: Mapping[str, Any] | None) -> str:
    if not scores:
        return ""
    spread = f" [{scores['min']:.1f}–{scores['max']:.1f}]" if scores["min"] < scores["max"] else ""
    return f"{scores['median']:.1f}{spread}"


def texts_section(record: Mapping[str, Any]) -> str:
    rows = []
    for name, one in record["texts"].items():
        if "books" in one:
            what = f"{count_noun(len(one['books']), 'textbook')}, {count_noun(one['documents'], 'section')}"
        else:
            what = f"{count_noun(one['documents'], 'book')} by {count_noun(one['authors'], 'author')}"
        use = "validation" if "validation" in name else "twice" if one["times"] == 2 else "once"
        rows.append([f"`{name}`", what, f"{one['bytes'] / 1e6:.1f} MB", use])
    corpus = record["corpus"]
    seen = sum(stage["tokens_seen"] for stage in record["stages"].values())
    size, vocabulary = corpus["tokens"], record["model"]["vocab_size"]
    about = f"The corpus has {size:,} tokens, {corpus['bytes'] / size:.2f} bytes per token. Its vocabulary of "
    about += f"{vocabulary:,} tokens was trained on a part of it: the textbooks and the first two files of books. "
    about += f"Pre-training has read {seen:,} tokens."
    return f"## Texts\n\n{table(['file', 'what', 'size', 'in the corpus'], rows)}\n{paragraph(about)}"


def recipe_section(record: Mapping[str, Any]) -> str:
    model = record["model"]
    shape = [[name, cell(model[name])] for name in ("n_layer", "n_head", "n_embd", "context", "vocab_size")] + [
        ["parameters", f"{last_stage(record)['parameters']:,}"],
        ["size of the weights, bf16", f"{model['size'] / 1e6:.1f} MB"],
    ]
    parts = ["## Recipe\n", table(["model", ""], shape)]
    for name, stage in record["stages"].items():
        rows = [[setting, cell(value)] for setting, value in stage["settings"].items()]
        rows += [["tokens seen", f"{stage['tokens_seen']:,}"], ["computes in", stage["computes_in"]]]
        parts += [f"`{pretrain_command(name, stage)}`, gpt1 {stage['version']}:\n", table(["setting", "value"], rows)]
    parts.append("All of it is made by `python -m benchmarks.starter` in the repository of gpt1.\n")
    return "\n".join(parts)


def pretrain_command(name: str, stage: Mapping[str, Any]) -> str:
    start = ["--from", stage["from"]] if stage["from"] else ["--model", stage["settings"]["model"]]
    words = ["gpt1", "pretrain", "starter-corpus", "--out", f"runs/{name}", *start]
    recipe = {name: stage["settings"][name] for name in COMMAND_SETTINGS if name in stage["settings"]}
    flags = [format_flag(name, value) for name, value in recipe.items()]
    return " ".join([shell_join([*words, "--steps", stage["steps"]]), *flags])


def license_section(record: Mapping[str, Any]) -> str:
    training = [one for name, one in record["texts"].items() if "validation" not in name]
    books = sum(one["documents"] for one in training if "authors" in one)
    lines = []
    for book in sorted({book for one in training for book in one.get("books", ())}):
        if book not in TEXTBOOKS:
            raise UserError(f"the textbook {book} has no attribution.", "Add it to TEXTBOOKS in starter_card.py.")
        title, commit = TEXTBOOKS[book]
        lines.append(f"- {title}: [osbooks-{book}](https://github.com/openstax/osbooks-{book}/tree/{commit})\n")
    return LICENSE_TEXT.format(books=books, source=BOOKS_SOURCE) + "".join(lines)


def paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def last_stage(record: Mapping[str, Any]) -> dict[str, Any]:
    *_, last = record["stages"].values()
    return dict(last)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
