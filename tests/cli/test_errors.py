"""Invalid input on the real command line: one message with value, rule and fix, exit code 2, no files left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from workspace import CLASSIFICATION_FLAGS, list_files

# Command → arguments → texts that the message must contain.
REFUSED = {
    "tokenize": {
        "nowhere --out c": ["nowhere does not exist"],
        "revews.csv --out c": ["Did you mean reviews.csv?"],
        "empty.txt --out c": ["empty.txt is empty"],
        "latin.txt --out c": ["latin.txt is not UTF-8", "0xE7", "iconv"],
        "binary.txt --out c": ["binary.txt is a binary file"],
        "nothing-in-it --out c": ["nothing-in-it is empty"],
        "full --out c": ["letter.doc"],
        "corpus --out c": ["already tokenized"],
        "one-answer.jsonl --out c": ["no field 'text'", "p, c, r"],
        "short.txt --out full": ["--out full exists and is not empty"],
        "short.txt --out reviews.csv": ["--out reviews.csv is a file"],
        "short.txt --out reviews.csv/c": ["reviews.csv is a file"],
        "short.txt --out c --tokenizer nowhere": ["nowhere does not exist"],
        "short.txt --out c --tokenizer full": ["full contains no tokenizer"],
        "short.txt --out c --tokenizer runs/books --vocab-size 500": ["--tokenizer and --vocab-size"],
        "short.txt --out c --vocab-size 20000000": ["--vocab-size 20000000", "between 1 and 16777216"],
        "short.txt --out c --vocab-size 3": ["vocab_size 3 is too small"],
        "short.txt --out c --vocab-size 0": ["--vocab-size 0", "between 1 and 16777216"],
        "short.txt --out c --vocab-size many": ["--vocab-size many", "a whole number"],
        "short.txt --out c --workers 0": ["--workers 0", "at least 1"],
        "short.txt --out c --pipeline orignal": ["orignal", "Did you mean original?"],
        "short.txt": ["--out", "gpt1 tokenize --help"],
        "--out c": ["CORPUS"],
    },
    "pretrain": {
        "nowhere --out r": ["nowhere does not exist"],
        "full --out r": ["full", "not a corpus folder", "gpt1 tokenize full"],
        "reviews.csv --out r": ["not a corpus folder"],
        "short --out r --context 32": ["tokens", "--context 32"],
        "damaged --out r --model tiny --context 32": ["damaged/shard-00000.npy", "SHA-256"],
        "cut --out r": ["cut/manifest.json", "damaged"],
        "corpus --out full": ["full exists and is not empty"],
        "corpus --out runs/books": ["runs/books exists and is not empty", "--resume"],
        "corpus --out reviews.csv": ["reviews.csv is a file, not a folder"],
        "corpus --out reviews.csv/r": ["reviews.csv is a file"],
        "corpus --out r --peek-lr 1": ["--peek-lr", "--peak-lr"],
        "corpus --out r --peak-lr fast": ["--peak-lr fast", "a number"],
        "corpus --out r --peak-lr=-1": ["--peak-lr -1 ", "at least 0"],
        "corpus --out r --peak-lr nan": ["--peak-lr nan", "a number"],
        "corpus --out r --dropout 1": ["--dropout 1 ", "between 0 and 0.99"],
        "corpus --out r --model big": ["--model big", "tiny, mini, small, gpt1"],
        "corpus --out r --optimizer adamm": ["Did you mean adam"],
        "corpus --out r --n-head 5": ["--n-embd 384", "--n-head 5"],
        "corpus --out r --steps 1.5": ["--steps 1.5", "a whole number"],
        "corpus --out r --steps 5 --epochs 2": ["--steps and --epochs"],
        "corpus --out r --epochs 0": ["--epochs 0 ", "above 0", "Default: 1; paper: 100"],
        "corpus --out r --minutes 0": ["--minutes 0", "above 0"],
        "corpus --out r --minutes 5 --steps 5": ["--minutes and --steps"],
        "--out r": ["the corpus is missing", "gpt1 tokenize"],
        "corpus --out r --context 1000000": ["--context 1000000", "tokens"],
        "corpus --out r --device gpu": ["--device gpu", "cpu, cuda"],
        "corpus --out r --config misspelled.yaml": ["peek_lr", "Did you mean peak_lr?"],
        "corpus --out r --config worded.yaml": ["--peak-lr fast", "a number"],
        "corpus --out r --config null.yaml": ["--peak-lr None"],
        "corpus --out r --config far.yaml": ["--dropout 2 ", "between 0 and 0.99"],
        "corpus --out r --config listed.yaml": ["listed.yaml", "name: value"],
        "corpus --out r --config broken.yaml": ["broken.yaml", "line 1", "name: value"],
        "corpus --out r --config blank.yaml": ["blank.yaml contains no settings"],
        "corpus --out r --config nowhere.yaml": ["nowhere.yaml does not exist"],
        "corpus --out r --config full": ["full", "a folder, not a file"],
        "corpus --out r --from nowhere": ["nowhere does not exist"],
        "corpus --out r --from full": ["full is not a model folder"],
        "corpus --out r --from runs/books --context 64": ["--context 64", "32 positions of runs/books"],
        "corpus --out r --from runs/books --n-layer 3": ["--n-layer 3", "runs/books has 2"],
        "other --out r --from runs/books": ["different tokenizer", "--tokenizer runs/books"],
        "corpus --out r --valid other --model tiny --context 32": ["corpus of --valid", "different tokenizer"],
        "corpus --out r --valid nowhere --model tiny --context 32": ["nowhere does not exist"],
        "corpus --out r --resume": ["r is not a run folder"],
        "corpus --out full --resume": ["full is not a run folder"],
        "corpus --out runs/books --resume --peak-lr 1": [
            "--peak-lr 1.0",
            "was started with",
            "Settings cannot change on --resume",
        ],
        "corpus --out runs/books --resume --config far.yaml": ["--dropout 2.0", "was started with"],
        "other --out runs/books --resume": ["corpus", "not other", "Use the same corpus"],
        "corpus --out runs/reviews --resume": ["runs/reviews is not a run of gpt1 pretrain", "finetune"],
    },
    "finetune": {
        f"nowhere.csv --out r {CLASSIFICATION_FLAGS}": ["nowhere.csv does not exist"],
        f"revews.csv --out r {CLASSIFICATION_FLAGS}": ["Did you mean reviews.csv?"],
        "rtee --out r --from runs/books": ["rtee does not exist", "Did you mean rte?"],
        "rte --out r --from runs/books --data-dir full": ["RTE", "not in full"],
        "rte --out r --from runs/books --data-dir nowhere": ["nowhere is not a folder"],
        "rte:morning --out r --from runs/books --data-dir full": ["no split 'morning'", "train, dev, test"],
        f"empty.csv --out r {CLASSIFICATION_FLAGS}": ["empty.csv is empty"],
        f"header.csv --out r {CLASSIFICATION_FLAGS}": ["header.csv has no rows"],
        f"latin.csv --out r {CLASSIFICATION_FLAGS}": ["latin.csv is not UTF-8", "line 2"],
        f"binary.csv --out r {CLASSIFICATION_FLAGS}": ["binary.csv is a binary file"],
        f"full --out r {CLASSIFICATION_FLAGS}": ["full is a folder"],
        f"short.txt --out r {CLASSIFICATION_FLAGS}": ["short.txt has no supported table extension", ".csv"],
        "reviews.csv --out r --kind classification --text text": ["--from"],
        "reviews.csv --out r --from runs/books": ["--kind is missing", "classification"],
        "reviews.csv --out r --from runs/books --kind clasification": ["Did you mean classification?"],
        "reviews.csv --out r --from runs/books --kind classification": ["needs --text"],
        "reviews.csv --out r --from runs/books --kind classification --text txet": ["'txet'", "--text text?"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS}s": ["runs/bookss does not exist. Did you mean runs/books?"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --label labels": [
            "no column 'labels'",
            "text, label",
            "--label label?",
        ],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --label zzz": ["no column 'zzz'", "text, label"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --premise text": [
            "classification does not accept --premise",
            "--text, --label",
        ],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --score": ["--score requires --kind similarity"],
        "reviews.csv --out r --from runs/books --kind entailment --premise text": ["needs --hypothesis"],
        "reviews.csv --out r --from runs/books --kind choice --context text": ["needs --choices"],
        "reviews.csv --out r --from runs/books --kind choice --context text --choices stars": [
            "must contain a list of answers"
        ],
        "reviews.csv --out r --from runs/books --kind regression --text text": ["line 2", "finite number"],
        f"single.csv --out r {CLASSIFICATION_FLAGS}": ["single.csv", "same label ('yes')"],
        f"repeats.csv --out r {CLASSIFICATION_FLAGS}": ["repeats.csv", "2 repeated rows", "same label ('yes')"],
        f"gaps.csv --out r {CLASSIFICATION_FLAGS}": ["gaps.csv, line 3", "label is empty"],
        f"gaps.csv --out r {CLASSIFICATION_FLAGS} --unlabeled keep": ["--unlabeled keep", "refuse, drop"],
        f"lists.jsonl --out r {CLASSIFICATION_FLAGS}": ["lists.jsonl, line 1", "is not a text or a number"],
        "one-answer.jsonl --out r --from runs/books --kind choice --context p --choices c --label r": [
            "1 answer",
        ],
        "far-answer.jsonl --out r --from runs/books --kind choice --context p --choices c --label r": ["label '2'"],
        "two-readings.jsonl --out r --from runs/books --kind choice --context p --choices c --label r": [
            "answer 0 or 1"
        ],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --valid unknown.csv": [
            "unknown.csv, line 3",
            "'perhaps'",
            "no, yes",
        ],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --valid reviews.csv": ["all rows are also in reviews.csv"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --valid new.csv": ["new.csv has no column 'label'"],
        f"reviews.csv --out full {CLASSIFICATION_FLAGS}": ["full exists and is not empty"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --train haed": ["--train haed", "Did you mean head?", "last:K"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --train last:3": ["--train last:3", "1 to 2"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --train head --lm-coef 0.5": [
            "--lm-coef 0.5 has no effect with --train head"
        ],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --train last:1 --embedding-lr-factor 3": [
            "--embedding-lr-factor has no effect with --train last:1"
        ],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --transfer-layers 9": ["--transfer-layers 9", "2 blocks"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --valid-fraction 0.9": ["--valid-fraction 0.9", "0.5"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --epochs 0": ["--epochs 0 ", "above 0", "by the number of rows"],
        f"reviews.csv --out r {CLASSIFICATION_FLAGS} --resume": ["r is not a run folder"],
        "reviews.csv --out r --kind classification --text text --from broken/no-model": [
            "no finished model",
            "--resume",
        ],
        "reviews.csv --out r --kind classification --text text --from broken/swapped": ["270 tokens", "300"],
        "reviews.csv --out r --kind classification --text text --from corpus": ["corpus is not a model folder"],
        **{
            f"{name}.jsonl --out r --from runs/books --kind {kind} --label s": [
                f"{name}.jsonl, line 2",
                "finite number" if name in ("words", "inf") else "the label is empty",
            ]
            for name in ("nan", "words", "none", "inf")
            for kind in ("regression --text a", "similarity --score --text-a a --text-b b")
        },
        "flat.jsonl --out r --from runs/books --kind regression --text a --label s": ["flat.jsonl", "same number"],
    },
    "evaluate": {
        "runs/books reviews.csv": ["runs/books is pre-trained", "gpt1 finetune"],
        "runs/nowhere reviews.csv": ["runs/nowhere does not exist"],
        "runs/reviews nowhere.csv": ["nowhere.csv does not exist"],
        "runs/reviews new.csv": ["new.csv has no labels", "gpt1 predict runs/reviews new.csv"],
        "runs/reviews unknown.csv --unseen refuse": ["unknown.csv, line 3", "'perhaps'", "no, yes"],
        "runs/reviews gaps.csv": ["gaps.csv, line 3", "label is empty"],
        "runs/reviews nan.jsonl": ["no labels"],
        "runs/reviews": ["TEST"],
    },
    "predict": {
        "runs/books new.csv": ["runs/books is pre-trained"],
        "runs/reviews nan.jsonl": ["no column 'text'", "a, b, s"],
        "runs/reviews header.csv": ["no rows"],
        "runs/reviews new.csv --out p.txt": ["p.txt has no supported table extension"],
        "runs/reviews new.csv --out full": ["full"],
        "runs/reviews new.csv --out reviews.csv/p.csv": ["reviews.csv is a file"],
        "broken/no-task new.csv": ["task.json", "'kind' is missing"],
    },
    "next": {
        "runs/nowhere hi": ["runs/nowhere does not exist"],
        "runs/boks hi": ["Did you mean runs/books?"],
        "corpus hi": ["corpus is not a model folder"],
        "broken/no-model hi": ["no finished model"],
        "broken/cut-weights hi": ["model.safetensors", "damaged"],
        "broken/swapped hi": ["270 tokens", "300"],
        "runs/books hi --top 0": ["--top 0", "at least 1"],
        "runs/books hi there": ["there"],
        "runs/books": ["TEXT"],
    },
    "generate": {
        "runs/books hi --temperature=-1": ["--temperature -1", "at least 0"],
        "runs/books hi --temperature nan": ["--temperature nan"],
        "runs/books hi --top-p 0": ["--top-p 0", "above 0 and at most 1"],
        "runs/books hi --top-k=-1": ["--top-k -1"],
        "runs/books hi --precision fp31": ["--precision fp31", "Did you mean fp32?"],
        "runs/books hi --max-tokens x": ["--max-tokens x", "a whole number"],
        "runs/books hi --seed 99999999999999999999": ["--seed 99999999999999999999"],
    },
    "score": {
        "nowhere hi": ["nowhere does not exist"],
        "runs/books hi --stride 0": ["--stride 0", "at least 1"],
        "runs/books hi --stride 33": ["stride 33", "1 to 32"],
        "runs/books missing.txt": ["missing.txt does not exist"],
        "runs/books binary.txt": ["binary.txt is a binary file"],
    },
    "features": {
        "runs/books new.csv --out f.parquet": ["Name the column with --text COLUMN"],
        "runs/books new.csv --text texts --out f.parquet": ["new.csv has no column 'texts'", "--text text"],
        "runs/books lists.jsonl --text text --out f.jsonl": ["lists.jsonl, line 1", "is not a text"],
        "runs/books new.csv --text text --out new.csv": ["is also the input table"],
        "runs/books new.csv --text text --out f.npy": ["no supported table extension"],
        "runs/books new.csv --text text --out reviews.csv": ["reviews.csv exists", "replace it with --overwrite"],
    },
    "inspect": {
        "nowhere": ["nowhere does not exist", "rte"],
        "revews.csv": ["Did you mean reviews.csv?"],
        "rtee": ["Did you mean rte?"],
        "rte:morning": ["no split 'morning'"],
        "empty.csv": ["empty.csv is empty"],
        "latin.csv": ["not UTF-8"],
        "binary.csv": ["binary"],
        "nothing-in-it": ["is empty"],
        "damaged": ["damaged/shard-00000.npy", "SHA-256"],
        "broken/cut-weights/model": ["model.safetensors"],
        "runs/books/checkpoints/step-00000060": ["checkpoint", "gpt1 inspect"],
        "reviews.csv --from nowhere": ["nowhere does not exist"],
        "x" * 300: ["too long"],
    },
    "import": {
        "huggingface nowhere --out m": ["nowhere does not exist"],
        "huggingface full --out m": ["full is not a model in the huggingface format", "config.json"],
        "openai runs/books/model --out m": ["not a model in the openai format", "params_0.npy"],
        "hugging full --out m": ["Did you mean huggingface?"],
    },
    "": {"tokenise x": ["tokenise", "tokenize"], "--nonsense": ["--nonsense"]},
}


@pytest.mark.parametrize(
    ("line", "fragments"),
    [(f"{command} {rest}".strip(), texts) for command, cases in REFUSED.items() for rest, texts in cases.items()],
    ids=lambda value: value[:80] if isinstance(value, str) else "",
)
def test_invalid_input_gives_one_message_with_value_rule_and_fix_and_leaves_no_files(
    line: str, fragments: list[str], workspace: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("GPT1_DATA", raising=False)
    before = list_files(workspace)
    answer = run_cli(*line.split(" "))
    assert answer.exit_code == 2, answer.stderr
    message = answer.stderr[answer.stderr.index("gpt1: ") :].splitlines()
    assert len(message) >= 2, "the fix is missing"
    assert all(line.startswith("      ") and line.strip() for line in message[1:])
    assert "Traceback" not in answer.stderr
    for fragment in fragments:
        assert fragment in "\n".join(message)
    assert answer.stdout == ""
    assert list_files(workspace) == before
