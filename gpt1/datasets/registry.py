"""The data sets of the paper (tables 2 to 4), and two more. Adding one is one entry here.

Counts are those of the official splits, for GLUE of its present version (QNLI was cut anew after the paper).
"""

from __future__ import annotations

from gpt1.datasets.dataset import DataSet, Named, named
from gpt1.datasets.files import Columns, Files, plain_name
from gpt1.datasets.hub import Hub
from gpt1.errors import UserError, did_you_mean

TSV = {"train": ("train.tsv",), "dev": ("dev.tsv",), "test": ("test.tsv",)}
JSONL = {"train": ("train.jsonl",), "dev": ("dev.jsonl",), "test": ("test.jsonl",)}
BINARY = ("0", "1")
NLI = ("entailment", "neutral", "contradiction")
GLUE_HOME = "It is part of GLUE: https://gluebenchmark.com/tasks."
NOT_LABELLED = {"-": None, "-1": None}  # SNLI and MNLI: the annotators did not agree
PAIR = {"text_a": "sentence1", "text_b": "sentence2"}
ENTAILMENT = {"premise": "sentence1", "hypothesis": "sentence2"}
COLA: Columns = {"text": "sentence", "label": "label"}
MSR: Columns = {"text_a": "#1 String", "text_b": "#2 String", "label": "Quality"}
MNLI_FILES = {"m": "_matched", "mm": "_mismatched"}
STORY: Columns = {
    "context": tuple(f"InputSentence{i}" for i in range(1, 5)),
    "choices": ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"),
    "label": "AnswerRightEnding",
}


def parts(
    configuration: str, train: str = "train", dev: str = "validation", test: str = "test"
) -> dict[str, tuple[str, ...]]:
    """The three splits on the hub: `configuration/split`."""
    return {split: (f"{configuration}/{theirs}",) for split, theirs in (("train", train), ("dev", dev), ("test", test))}


def both(name: str) -> tuple[str, str]:
    """MNLI's matched and mismatched half of a split."""
    return name.format("matched"), name.format("mismatched")


DATA_SETS = (
    DataSet(
        "sst2", "SST-2", "classification", ("accuracy",),
        files=(Files(TSV, {"text": "sentence", "label": "label"}),),
        hub=Hub("nyu-mll/glue", parts("sst2"), {"text": "sentence", "label": "label"}),
        counts={"train": 67_349, "dev": 872, "test": 1_821},
        labels=BINARY, unlabelled=("test",), glue=("SST-2.tsv",), home=GLUE_HOME,
    ),
    DataSet(
        "cola", "CoLA", "classification", ("matthews",),
        files=(
            Files(
                {"train": ("in_domain_train.tsv",), "dev": ("in_domain_dev.tsv", "out_of_domain_dev.tsv")},
                COLA, header=("source", "label", "mark", "sentence"),
            ),
            Files(
                {"train": ("train.tsv",), "dev": ("dev.tsv",)}, COLA, header=("source", "label", "mark", "sentence")
            ),
            Files({"test": ("test.tsv",)}, COLA),
        ),
        hub=Hub("nyu-mll/glue", parts("cola"), COLA),
        counts={"train": 8_551, "dev": 1_043, "test": 1_063},
        labels=BINARY, unlabelled=("test",), glue=("CoLA.tsv",), home=GLUE_HOME, folders=("cola_public",),
    ),
    DataSet(
        "mrpc", "MRPC", "similarity", ("f1", "accuracy"),
        files=(
            Files({"train": ("train.tsv",), "dev": ("dev.tsv",)}, MSR),
            Files(
                {"train": ("msr_paraphrase_train.txt",), "test": ("msr_paraphrase_test.txt",)}, MSR,
                format="tsv", counts={"train": 4_076},
            ),
            Files({"test": ("test.tsv",)}, MSR),
        ),
        hub=Hub("nyu-mll/glue", parts("mrpc"), {**PAIR, "label": "label"}),
        counts={"train": 3_668, "dev": 408, "test": 1_725}, evaluation_split="test",
        labels=BINARY, unlabelled=("test",), glue=("MRPC.tsv",), home=GLUE_HOME,
    ),
    DataSet(
        "stsb", "STS-B", "similarity", ("pearson", "spearman"),
        files=(
            Files(
                {"train": ("sts-train.csv",), "dev": ("sts-dev.csv",), "test": ("sts-test.csv",)},
                {**PAIR, "label": "score"}, format="tsv",
                header=("genre", "file", "year", "id", "score", "sentence1", "sentence2"),
            ),
            Files(TSV, {**PAIR, "label": "score"}),
        ),
        hub=Hub("nyu-mll/glue", parts("stsb"), {**PAIR, "label": "label"}),
        counts={"train": 5_749, "dev": 1_500, "test": 1_379},
        scale=(0, 5), unlabelled=("test",), glue=("STS-B.tsv",), home=GLUE_HOME, folders=("stsbenchmark",),
    ),
    DataSet(
        "qqp", "QQP", "similarity", ("f1", "accuracy"),
        files=(Files(TSV, {"text_a": "question1", "text_b": "question2", "label": "is_duplicate"}, ragged=True),),
        hub=Hub("nyu-mll/glue", parts("qqp"), {"text_a": "question1", "text_b": "question2", "label": "label"}),
        counts={"train": 363_846, "dev": 40_430, "test": 390_965},
        labels=BINARY, unlabelled=("test",), glue=("QQP.tsv",), home=GLUE_HOME,
    ),
    DataSet(
        "mnli", "MNLI", "entailment", ("accuracy",),
        files=(
            Files(
                {"train": ("train.tsv",), "dev": both("dev_{}.tsv"), "test": both("test_{}.tsv")},
                {**ENTAILMENT, "label": "gold_label"},
            ),
            Files(
                {"train": ("multinli_1.0_train.jsonl",), "dev": both("multinli_1.0_dev_{}.jsonl")},
                {**ENTAILMENT, "label": "gold_label"},
            ),
        ),
        hub=Hub(
            "nyu-mll/glue",
            {"train": ("mnli/train",), "dev": both("mnli/validation_{}"), "test": both("mnli/test_{}")},
            {"premise": "premise", "hypothesis": "hypothesis", "label": "label"},
        ),
        counts={"train": 392_702, "dev-m": 9_815, "dev-mm": 9_832, "test-m": 9_796, "test-mm": 9_847},
        labels=NLI, unlabelled=("test",), glue=("MNLI-m.tsv", "MNLI-mm.tsv"), home=GLUE_HOME,
        subsets=MNLI_FILES, renamed=NOT_LABELLED, folders=("MultiNLI",),
    ),
    DataSet(
        "qnli", "QNLI", "entailment", ("accuracy",),
        files=(Files(TSV, {"premise": "question", "hypothesis": "sentence", "label": "label"}),),
        hub=Hub("nyu-mll/glue", parts("qnli"), {"premise": "question", "hypothesis": "sentence", "label": "label"}),
        counts={"train": 104_743, "dev": 5_463, "test": 5_463},
        labels=("entailment", "not_entailment"), unlabelled=("test",), glue=("QNLI.tsv",), home=GLUE_HOME,
    ),
    DataSet(
        "rte", "RTE", "entailment", ("accuracy",),
        files=(Files(TSV, {**ENTAILMENT, "label": "label"}),),
        hub=Hub("nyu-mll/glue", parts("rte"), {**ENTAILMENT, "label": "label"}),
        counts={"train": 2_490, "dev": 277, "test": 3_000},
        labels=("entailment", "not_entailment"), unlabelled=("test",), glue=("RTE.tsv",), home=GLUE_HOME,
    ),
    DataSet(
        "snli", "SNLI", "entailment", ("accuracy",),
        files=(
            Files({s: (f"snli_1.0_{s}.jsonl",) for s in TSV}, {**ENTAILMENT, "label": "gold_label"}),
            Files({s: (f"snli_1.0_{s}.txt",) for s in TSV}, {**ENTAILMENT, "label": "gold_label"}, format="tsv"),
            Files(TSV, {**ENTAILMENT, "label": "gold_label"}),
            Files(JSONL, {"premise": "premise", "hypothesis": "hypothesis", "label": "label"}),
        ),
        hub=Hub(
            "stanfordnlp/snli", parts("plain_text"),
            {"premise": "premise", "hypothesis": "hypothesis", "label": "label"},
        ),
        counts={"train": 549_367, "dev": 9_842, "test": 9_824}, evaluation_split="test",
        labels=NLI, renamed=NOT_LABELLED, home="It is at https://nlp.stanford.edu/projects/snli/.",
    ),
    DataSet(
        "scitail", "SciTail", "entailment", ("accuracy",),
        files=(
            *(
                Files(
                    {s: (f"{folder}scitail_1.0_{s}.txt",) for s in TSV},
                    {**ENTAILMENT, "label": "gold_label"}, format="jsonl",
                )
                for folder in ("snli_format/", "")
            ),
            *(
                Files(
                    {s: (f"{folder}scitail_1.0_{s}.tsv",) for s in TSV},
                    {"premise": "premise", "hypothesis": "hypothesis", "label": "label"},
                    header=("premise", "hypothesis", "label"),
                )
                for folder in ("tsv_format/", "")
            ),
            Files({s: (f"{s}/answers.jsonl",) for s in TSV}, {**ENTAILMENT, "label": "gold_label"}),
        ),
        hub=Hub("allenai/scitail", parts("snli_format"), {**ENTAILMENT, "label": "gold_label"}),
        counts={"train": 23_596, "dev": 1_304, "test": 2_126}, evaluation_split="test",
        labels=("entailment", "neutral"), renamed={"entails": "entailment", "E": "entailment", "N": "neutral"},
        home="It is at https://allenai.org/data/scitail.", folders=("SciTailV1.1",),
    ),
    DataSet(
        "race", "RACE", "choice", ("accuracy",),
        files=(
            Files(
                {s: (f"{s}/middle", f"{s}/high") for s in TSV},
                {"context": "article", "question": "question", "choices": "options", "label": "answer"},
                format="race", archives=("RACE.tar.gz", "RACE.tar.xz"),
            ),
        ),
        hub=Hub(
            "ehovy/race", {ours: (f"middle/{theirs}", f"high/{theirs}") for ours, theirs in
                           (("train", "train"), ("dev", "validation"), ("test", "test"))},
            {"context": "article", "question": "question", "choices": "options", "label": "answer"},
        ),
        counts={
            "train-middle": 25_421, "train-high": 62_445, "dev-middle": 1_436, "dev-high": 3_451,
            "test-middle": 1_436, "test-high": 3_498,
        },
        evaluation_split="test", subsets={"middle": "middle", "high": "high"},
        renamed={letter: number for number, letter in enumerate("ABCD")},
        home="It is handed out for research at https://www.cs.cmu.edu/~glai1/data/race/.",
    ),
    DataSet(
        "storycloze", "Story Cloze", "choice", ("accuracy",),
        files=(
            Files(
                {
                    "dev": ("cloze_test_val__spring2016 - cloze_test_ALL_val.csv",),
                    "test": ("cloze_test_test__spring2016 - cloze_test_ALL_test.csv",),
                },
                STORY,
            ),
            Files(
                {
                    "dev": ("cloze_test_val__winter2018-cloze_test_ALL_val - 1 - 1.csv",),
                    "test": ("cloze_test_test__winter2018-cloze_test_ALL_test - 1.csv",),
                },
                STORY, counts={"dev": 1_571, "test": 1_571},
            ),
        ),
        hub=None,
        counts={"dev": 1_871, "test": 1_871}, train_split="dev", evaluation_split="test", unlabelled=("test",),
        renamed={"1": 0, "2": 1}, folders=("rocstories", "story_cloze"),
        home="Its authors hand it out on request: https://cs.rochester.edu/nlp/rocstories/.",
    ),
    DataSet(
        "imdb", "IMDB", "classification", ("accuracy",),
        files=(
            Files(
                {"train": ("train/neg", "train/pos"), "test": ("test/neg", "test/pos")},
                {"text": "text", "label": "folder"}, format="reviews", archives=("aclImdb_v1.tar.gz",),
            ),
            Files({"unlabeled": ("train/unsup",)}, {"text": "text"}, format="reviews", archives=("aclImdb_v1.tar.gz",)),
            Files(
                {s: (f"{s}.jsonl",) for s in ("train", "test", "unlabeled")}, {"text": "text", "label": "label"}
            ),
        ),
        hub=Hub(
            "stanfordnlp/imdb",
            {"train": ("plain_text/train",), "test": ("plain_text/test",), "unlabeled": ("plain_text/unsupervised",)},
            {"text": "text", "label": "label"},
        ),
        counts={"train": 25_000, "test": 25_000, "unlabeled": 50_000}, evaluation_split="test",
        labels=("neg", "pos"), unlabelled=("unlabeled",), folders=("aclImdb",),
        home="It is at https://ai.stanford.edu/~amaas/data/sentiment/.",
    ),
    DataSet(
        "nsmc", "NSMC", "classification", ("accuracy",),
        files=(
            Files(
                {"train": ("ratings_train.txt",), "test": ("ratings_test.txt",)},
                {"text": "document", "label": "label"}, format="tsv",
            ),
            Files(
                {s: (f"{s}.jsonl",) for s in ("train", "test", "unlabeled")}, {"text": "text", "label": "label"}
            ),
        ),
        hub=Hub(
            "e9t/nsmc", {"train": ("train",), "test": ("test",)}, {"text": "document", "label": "label"},
            revision="refs/convert/parquet",  # the repository itself holds a script, which `datasets` no longer runs
        ),
        counts={"train": 150_000, "test": 50_000}, evaluation_split="test",
        labels=BINARY, unlabelled=("unlabeled",), home="It is at https://github.com/e9t/nsmc.",
    ),
)  # fmt: skip


def names() -> list[str]:
    return [data.name for data in DATA_SETS]


def find(name: str) -> DataSet | None:
    """The data set of that name, however it is written (sst2, SST-2), or None."""
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    return next((data for data in DATA_SETS if plain in (data.name, plain_name(data.title))), None)


def parse(name: str) -> Named | None:
    """What `rte`, `rte:dev`, `mnli:mm`, `race:test-high` or `snli:dev` means; None for what does not begin with a known
    name (a path). UserError for a split that the data set does not have."""
    before, _, part = name.partition(":")
    data = find(before)
    return named(data, part) if data else None


def known(name: str) -> Named:
    """`parse` where only a known name will do."""
    if (found := parse(name)) is None:
        raise UserError(
            f"there is no known data set '{name}'.{did_you_mean(name, names())}", f"Known are: {', '.join(names())}."
        )
    return found
