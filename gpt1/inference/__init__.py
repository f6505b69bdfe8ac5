"""Inference: predictions, evaluation, import and export of models."""

IMPORT_FORMATS, EXPORT_FORMATS = ("huggingface", "openai"), ("gpt1", "huggingface", "onnx")
"""What `gpt1 import` reads and `gpt1 export` writes; here, because --help shows them without importing torch."""
