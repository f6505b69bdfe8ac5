"""Publish a model on the Hugging Face hub, with its model card."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from gpt1.errors import UserError
from gpt1.formatting import format_size
from gpt1.hub import HUB_NAME, import_hub, upload
from gpt1.inference.convert import export_model
from gpt1.progress import Progress
from gpt1.report.card import CARD_FILE


def push(
    source: str | Path,
    name: str,
    license: str = "unknown",
    private: bool = False,
    dtype: str = "fp32",
    progress: Progress | None = None,
    verify: bool = True,
) -> str:
    """Publish a model on the Hugging Face hub. The token is HF_TOKEN, or that of `hf auth login`.

    Args:
        source: A run or model folder.
        name: The repository, `owner/name`. It is created; if it exists, it gets a new commit.
        license: Identifier of the license, such as `mit` or `cc-by-4.0`.
        private: Whether a new repository is private.
        dtype: `fp32`, or `bf16`, as for `export_model`.
        progress: Receives messages.
        verify: See `load`.

    Returns:
        The address of the repository.

    Raises:
        UserError: The model or the name is invalid, or the hub refuses it.
    """
    progress = progress or Progress()
    if not HUB_NAME.fullmatch(name) or "@" in name:
        raise UserError(f"{name} is not a name on the hub.", "Use owner/name, such as alice/reviews.")
    import_hub(name)  # before the work
    with TemporaryDirectory() as temporary:
        folder = export_model("gpt1", source, Path(temporary, "model"), None, verify, dtype, license, name)
        size = sum(path.stat().st_size for path in folder.iterdir())
        progress.log(f"uploading {format_size(size)} to {name}, {'bf16' if dtype == 'bf16' else 'fp32'}")
        address = upload(folder, name, private)
        has_license = "license: unknown" not in (folder / CARD_FILE).read_text("utf-8")
    if not has_license:
        progress.log("the model card names no license, so others may not know what is allowed; add one with --license")
    return address
