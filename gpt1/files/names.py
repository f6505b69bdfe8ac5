"""Names of the files in the folders that gpt1 reads and writes."""

from __future__ import annotations

from pathlib import Path

MANIFEST = "manifest.json"
DOCUMENTS_FILE = "documents.npy"
"""The file of a corpus that no other folder has."""

# Run folders
RUN_CONFIG_FILE, RESULTS_FILE, METRICS_FILE, MODEL_FOLDER = "config.yaml", "results.json", "metrics.jsonl", "model"
REPORT_FILE, PREDICTIONS = "report.html", "predictions.jsonl"
RUN_NAME = "RUN"
"""What the commands in results.json call the run, so that the file does not depend on the name of its folder."""

# Model folders
MODEL_CONFIG_FILE, WEIGHTS_FILE, TASK_FILE = "config.json", "model.safetensors", "task.json"
INDEX_FILE = "model.safetensors.index.json"
"""Which tensor is in which file, for weights in several files (shards), as Hugging Face writes them."""
ONNX_FILE = "model.onnx"
"""A model exported for ONNX Runtime."""
HEAD_FILE = "head.safetensors"
"""The head of a fine-tuned model in Hugging Face's format."""
SHAPES_FILE, FIRST_ARRAY = "params_shapes.json", "params_0.npy"
"""The weights of OpenAI's release."""
GPT1_FILES = ("gpt1_tokenizer.json", "vocab.json", "merges.txt")
"""Files of a tokenizer: pipeline and versions, token → id, and one merge per line in the order of training."""
OPENAI_FILES = ("encoder_bpe_40000.json", "vocab_40000.bpe")
"""Files of the tokenizer of OpenAI's release: token → id, and merges."""
HUGGING_FACE_FILES = GPT1_FILES[1:]
"""The same files as named by Hugging Face."""
LIBRARY_FILE = "tokenizer.json"
"""All of it in one file, as the library `tokenizers` writes it; newer versions of transformers write no other."""
TOKENIZER_FILES = (*GPT1_FILES, LIBRARY_FILE, *OPENAI_FILES)


def beside(folder: Path, suffix: str) -> Path:
    """The path next to a folder, with its name and `suffix`; `.` and `..` have the names of the folders they mean."""
    named = folder.resolve() if folder.name in ("", "..") else folder
    return named.parent / f"{named.name}{suffix}"
