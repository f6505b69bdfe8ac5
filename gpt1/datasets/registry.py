"""The data sets of the paper (tables 2 to 4) and three more. To add one, add an entry here.

Counts are those of the official splits; for GLUE of its current version (QNLI was split again after the paper).
"""

from __future__ import annotations

from gpt1.datasets.blimp import PARADIGM_FILES
from gpt1.datasets.dataset import DataSet, DataSetSplit, resolve_split
from gpt1.datasets.files import ColumnMap, FileLayout, normalize_name
from gpt1.datasets.hub import HubSource
from gpt1.errors import UserError, did_you_mean

TSV = {"train": ("train.tsv",), "dev": ("dev.tsv",), "test": ("test.tsv",)}
JSONL = {"train": ("train.jsonl",), "dev": ("dev.jsonl",), "test": ("test.jsonl",)}
BINARY = ("0", "1")
NLI_LABELS = ("entailment", "neutral", "contradiction")
GLUE_HOME = "It is part of GLUE: https://gluebenchmark.com/tasks."
NO_GOLD_LABEL = {"-": None, "-1": None}  # SNLI and MNLI: the annotators did not agree
PAIR = {"text_a": "sentence1", "text_b": "sentence2"}
QUESTIONS = {"text_a": "question1", "text_b": "question2"}
QNLI: ColumnMap = {"premise": "question", "hypothesis": "sentence", "label": "label"}
ENTAILMENT = {"premise": "sentence1", "hypothesis": "sentence2"}
COLA: ColumnMap = {"text": "sentence", "label": "label"}
MSR: ColumnMap = {"text_a": "#1 String", "text_b": "#2 String", "label": "Quality"}
MNLI_FILES = {"m": "_matched", "mm": "_mismatched"}
STORY: ColumnMap = {
    "context": tuple(f"InputSentence{i}" for i in range(1, 5)),
    "choices": ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"),
    "label": "AnswerRightEnding",
}


def hub_splits(*configurations: str) -> dict[str, tuple[str, ...]]:
    """gpt1's splits → `configuration/split` on the hub, for each configuration."""
    names = {"train": "train", "dev": "validation", "test": "test"}
    return {ours: tuple(f"{one}/{theirs}" for one in configurations) for ours, theirs in names.items()}


def mnli_files(name: str) -> tuple[str, str]:
    """The files of MNLI's matched and mismatched halves of a split."""
    return name.format("matched"), name.format("mismatched")


DATA_SETS = (
    DataSet(
        "sst2", "SST-2", "classification", ("accuracy",),
        files=(FileLayout(TSV, {"text": "sentence", "label": "label"}),),
        hub=HubSource("nyu-mll/glue", hub_splits("sst2"), {"text": "sentence", "label": "label"}),
        counts={"train": 67_349, "dev": 872, "test": 1_821},
        labels=BINARY, unlabeled_splits=("test",), glue=("SST-2.tsv",), download_hint=GLUE_HOME,
    ),
    DataSet(
        "cola", "CoLA", "classification", ("matthews",),
        files=(
            FileLayout(
                {"train": ("in_domain_train.tsv",), "dev": ("in_domain_dev.tsv", "out_of_domain_dev.tsv")},
                COLA, header=("source", "label", "mark", "sentence"),
            ),
            FileLayout(
                {"train": ("train.tsv",), "dev": ("dev.tsv",)}, COLA, header=("source", "label", "mark", "sentence")
            ),
            FileLayout({"test": ("test.tsv",)}, COLA),
        ),
        hub=HubSource("nyu-mll/glue", hub_splits("cola"), COLA),
        counts={"train": 8_551, "dev": 1_043, "test": 1_063},
        labels=BINARY, unlabeled_splits=("test",), folders=("cola_public",), glue=("CoLA.tsv",),
        download_hint=GLUE_HOME,
    ),
    DataSet(
        "mrpc", "MRPC", "similarity", ("f1", "accuracy"),
        files=(
            FileLayout({"train": ("train.tsv",), "dev": ("dev.tsv",)}, MSR),
            FileLayout(
                {"train": ("msr_paraphrase_train.txt",), "test": ("msr_paraphrase_test.txt",)}, MSR,
                format="tsv", counts={"train": 4_076},
            ),
            FileLayout({"test": ("test.tsv",)}, MSR),
        ),
        hub=HubSource("nyu-mll/glue", hub_splits("mrpc"), {**PAIR, "label": "label"}),
        counts={"train": 3_668, "dev": 408, "test": 1_725}, evaluation_split="test",
        labels=BINARY, unlabeled_splits=("test",), glue=("MRPC.tsv",), download_hint=GLUE_HOME,
    ),
    DataSet(
        "stsb", "STS-B", "similarity", ("pearson", "spearman"),
        files=(
            FileLayout(
                {"train": ("sts-train.csv",), "dev": ("sts-dev.csv",), "test": ("sts-test.csv",)},
                {**PAIR, "label": "score"}, format="tsv",
                header=("genre", "file", "year", "id", "score", "sentence1", "sentence2"),
            ),
            FileLayout(TSV, {**PAIR, "label": "score"}),
        ),
        hub=HubSource("nyu-mll/glue", hub_splits("stsb"), {**PAIR, "label": "label"}),
        counts={"train": 5_749, "dev": 1_500, "test": 1_379},
        score_range=(0, 5), unlabeled_splits=("test",), folders=("stsbenchmark",), glue=("STS-B.tsv",),
        download_hint=GLUE_HOME,
    ),
    DataSet(
        "qqp", "QQP", "similarity", ("f1", "accuracy"),
        files=(FileLayout(TSV, {**QUESTIONS, "label": "is_duplicate"}, skip_ragged=True),),
        hub=HubSource("nyu-mll/glue", hub_splits("qqp"), {**QUESTIONS, "label": "label"}),
        counts={"train": 363_846, "dev": 40_430, "test": 390_965},
        labels=BINARY, unlabeled_splits=("test",), glue=("QQP.tsv",), download_hint=GLUE_HOME,
    ),
    DataSet(
        "mnli", "MNLI", "entailment", ("accuracy",),
        files=(
            FileLayout(
                {**TSV, "dev": mnli_files("dev_{}.tsv"), "test": mnli_files("test_{}.tsv")},
                {**ENTAILMENT, "label": "gold_label"},
            ),
            FileLayout(
                {"train": ("multinli_1.0_train.jsonl",), "dev": mnli_files("multinli_1.0_dev_{}.jsonl")},
                {**ENTAILMENT, "label": "gold_label"},
            ),
        ),
        hub=HubSource(
            "nyu-mll/glue",
            {
                "train": ("mnli/train",),
                "dev": mnli_files("mnli/validation_{}"),
                "test": mnli_files("mnli/test_{}"),
            },
            {"premise": "premise", "hypothesis": "hypothesis", "label": "label"},
        ),
        counts={"train": 392_702, "dev-m": 9_815, "dev-mm": 9_832, "test-m": 9_796, "test-mm": 9_847},
        labels=NLI_LABELS, unlabeled_splits=("test",), glue=("MNLI-m.tsv", "MNLI-mm.tsv"), download_hint=GLUE_HOME,
        subsets=MNLI_FILES, label_map=NO_GOLD_LABEL, folders=("MultiNLI",),
    ),
    DataSet(
        "qnli", "QNLI", "entailment", ("accuracy",),
        files=(FileLayout(TSV, QNLI),),
        hub=HubSource("nyu-mll/glue", hub_splits("qnli"), QNLI),
        counts={"train": 104_743, "dev": 5_463, "test": 5_463},
        labels=("entailment", "not_entailment"), unlabeled_splits=("test",), glue=("QNLI.tsv",),
        download_hint=GLUE_HOME,
    ),
    DataSet(
        "rte", "RTE", "entailment", ("accuracy",),
        files=(FileLayout(TSV, {**ENTAILMENT, "label": "label"}),),
        hub=HubSource("nyu-mll/glue", hub_splits("rte"), {**ENTAILMENT, "label": "label"}),
        counts={"train": 2_490, "dev": 277, "test": 3_000},
        labels=("entailment", "not_entailment"), unlabeled_splits=("test",), glue=("RTE.tsv",), download_hint=GLUE_HOME,
    ),
    DataSet(
        "snli", "SNLI", "entailment", ("accuracy",),
        files=(
            FileLayout({s: (f"snli_1.0_{s}.jsonl",) for s in TSV}, {**ENTAILMENT, "label": "gold_label"}),
            FileLayout({s: (f"snli_1.0_{s}.txt",) for s in TSV}, {**ENTAILMENT, "label": "gold_label"}, format="tsv"),
            FileLayout(TSV, {**ENTAILMENT, "label": "gold_label"}),
            FileLayout(JSONL, {"premise": "premise", "hypothesis": "hypothesis", "label": "label"}),
        ),
        hub=HubSource(
            "stanfordnlp/snli", hub_splits("plain_text"),
            {"premise": "premise", "hypothesis": "hypothesis", "label": "label"},
        ),
        counts={"train": 549_367, "dev": 9_842, "test": 9_824}, evaluation_split="test",
        labels=NLI_LABELS, label_map=NO_GOLD_LABEL, download_hint="It is at https://nlp.stanford.edu/projects/snli/.",
    ),
    DataSet(
        "scitail", "SciTail", "entailment", ("accuracy",),
        files=(
            *(
                FileLayout(
                    {s: (f"{folder}scitail_1.0_{s}.txt",) for s in TSV},
                    {**ENTAILMENT, "label": "gold_label"}, format="jsonl",
                )
                for folder in ("snli_format/", "")
            ),
            *(
                FileLayout(
                    {s: (f"{folder}scitail_1.0_{s}.tsv",) for s in TSV},
                    {"premise": "premise", "hypothesis": "hypothesis", "label": "label"},
                    header=("premise", "hypothesis", "label"),
                )
                for folder in ("tsv_format/", "")
            ),
            FileLayout({s: (f"{s}/answers.jsonl",) for s in TSV}, {**ENTAILMENT, "label": "gold_label"}),
        ),
        hub=HubSource("allenai/scitail", hub_splits("snli_format"), {**ENTAILMENT, "label": "gold_label"}),
        counts={"train": 23_596, "dev": 1_304, "test": 2_126}, evaluation_split="test",
        labels=("entailment", "neutral"), label_map={"entails": "entailment", "E": "entailment", "N": "neutral"},
        download_hint="It is at https://allenai.org/data/scitail.", folders=("SciTailV1.1",),
    ),
    DataSet(
        "race", "RACE", "choice", ("accuracy",),
        files=(
            FileLayout(
                {s: (f"{s}/middle", f"{s}/high") for s in TSV},
                {"context": "article", "question": "question", "choices": "options", "label": "answer"},
                format="race", archives=("RACE.tar.gz", "RACE.tar.xz"),
            ),
        ),
        hub=HubSource(
            "ehovy/race", hub_splits("middle", "high"),
            {"context": "article", "question": "question", "choices": "options", "label": "answer"},
        ),
        counts={
            "train-middle": 25_421, "train-high": 62_445, "dev-middle": 1_436, "dev-high": 3_451,
            "test-middle": 1_436, "test-high": 3_498,
        },
        evaluation_split="test", subsets={"middle": "middle", "high": "high"},
        label_map={letter: number for number, letter in enumerate("ABCD")},
        download_hint="It is available for research at https://www.cs.cmu.edu/~glai1/data/race/.",
    ),
    DataSet(
        "storycloze", "Story Cloze", "choice", ("accuracy",),
        files=(
            FileLayout(
                {
                    "dev": ("cloze_test_val__spring2016 - cloze_test_ALL_val.csv",),
                    "test": ("cloze_test_test__spring2016 - cloze_test_ALL_test.csv",),
                },
                STORY,
            ),
            FileLayout(
                {
                    "dev": ("cloze_test_val__winter2018-cloze_test_ALL_val - 1 - 1.csv",),
                    "test": ("cloze_test_test__winter2018-cloze_test_ALL_test - 1.csv",),
                },
                STORY, counts={"dev": 1_571, "test": 1_571},
            ),
        ),
        hub=None,
        counts={"dev": 1_871, "test": 1_871}, train_split="dev", evaluation_split="test", unlabeled_splits=("test",),
        label_map={"1": 0, "2": 1}, folders=("rocstories", "story_cloze"),
        download_hint="Its authors provide it on request: https://cs.rochester.edu/nlp/rocstories/.",
    ),
    DataSet(
        "imdb", "IMDB", "classification", ("accuracy",),
        files=(
            FileLayout(
                {"train": ("train/neg", "train/pos"), "test": ("test/neg", "test/pos")},
                {"text": "text", "label": "folder"}, format="reviews", archives=("aclImdb_v1.tar.gz",),
            ),
            FileLayout(
                {"unlabeled": ("train/unsup",)}, {"text": "text"}, format="reviews", archives=("aclImdb_v1.tar.gz",)
            ),
            FileLayout(
                {s: (f"{s}.jsonl",) for s in ("train", "test", "unlabeled")}, {"text": "text", "label": "label"}
            ),
        ),
        hub=HubSource(
            "stanfordnlp/imdb",
            {"train": ("plain_text/train",), "test": ("plain_text/test",), "unlabeled": ("plain_text/unsupervised",)},
            {"text": "text", "label": "label"},
        ),
        counts={"train": 25_000, "test": 25_000, "unlabeled": 50_000}, evaluation_split="test",
        labels=("neg", "pos"), unlabeled_splits=("unlabeled",), folders=("aclImdb",),
        download_hint="It is at https://ai.stanford.edu/~amaas/data/sentiment/.",
    ),
    DataSet(
        "nsmc", "NSMC", "classification", ("accuracy",),
        files=(
            FileLayout(
                {"train": ("ratings_train.txt",), "test": ("ratings_test.txt",)},
                {"text": "document", "label": "label"}, format="tsv",
            ),
            FileLayout(
                {s: (f"{s}.jsonl",) for s in ("train", "test", "unlabeled")}, {"text": "text", "label": "label"}
            ),
        ),
        hub=HubSource(
            "e9t/nsmc", {"train": ("train",), "test": ("test",)}, {"text": "document", "label": "label"},
            revision="refs/convert/parquet",  # the main branch has a script, which `datasets` no longer runs
        ),
        counts={"train": 150_000, "test": 50_000}, evaluation_split="test",
        labels=BINARY, unlabeled_splits=("unlabeled",), download_hint="It is at https://github.com/e9t/nsmc.",
    ),
    DataSet(
        "blimp", "BLiMP", "choice", ("accuracy",),
        files=(
            FileLayout(
                {"test": tuple(PARADIGM_FILES.values())},
                {"context": "context", "choices": ("sentence_good", "sentence_bad"), "label": "label"},
                archives=("BLiMP.tar.xz", "BLiMP.tar.gz"), constants={"context": "", "label": "0"},
            ),
        ),
        hub=None,
        counts={f"test-{paradigm}": 1_000 for paradigm in PARADIGM_FILES}, train_split="", evaluation_split="test",
        subsets=PARADIGM_FILES, label_map={"0": 0},
        download_hint="It is at https://github.com/alexwarstadt/blimp.",
    ),
)  # fmt: skip


def data_set_names() -> list[str]:
    return [data.name for data in DATA_SETS]


def find_data_set(name: str) -> DataSet | None:
    """The data set of that name in any spelling (sst2, SST-2), or None."""
    key = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    return next((data for data in DATA_SETS if key in (data.name, normalize_name(data.title))), None)


def parse_data_set(name: str) -> DataSetSplit | None:
    """Parse a name such as `rte`, `rte:dev`, `mnli:mm` or `race:test-high`.

    Returns:
        The split, or None if `name` does not begin with a known data set (it may be a path), or has spaces after the
        colon (a text may begin with "Race: ").

    Raises:
        UserError: If the data set does not have the split.
    """
    before, _, part = name.partition(":")
    if any(map(str.isspace, part)):
        return None
    data = find_data_set(before)
    return resolve_split(data, part) if data else None


def require_data_set(name: str) -> DataSetSplit:
    """Like `parse_data_set`; UserError for an unknown name."""
    if (split := parse_data_set(name)) is None:
        raise UserError(
            f"unknown data set '{name}'.{did_you_mean(name, data_set_names())}",
            f"Known data sets: {', '.join(data_set_names())}.",
        )
    return split
