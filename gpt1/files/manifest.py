"""manifest.json of a folder: size and SHA-256 of every file, and of the manifest itself.

safetensors and JSON do not detect flipped bits; the checksums do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt1.errors import PATH_FIXES, UserError, os_error_reason
from gpt1.files.atomic import atomic_write_text
from gpt1.files.foreign import Fields, check_name, check_regular, read_json_object, short
from gpt1.files.names import MANIFEST

CHANGED = "the file was changed or damaged"


def file_entry(path: Path) -> dict[str, Any]:
    """{"size": bytes, "sha256": hex digest} of a file."""
    check_regular(path)
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def add_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with the SHA-256 of its own canonical JSON."""
    body = {key: value for key, value in content.items() if key != "sha256"}
    return {**body, "sha256": content_sha256(body)}


def content_sha256(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def write_manifest(folder: Path, format_name: str, names: Iterable[str] | None = None) -> None:
    """Write manifest.json for the files `names` of `folder`, by default all files in it."""
    if names is None:
        found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        names = [name for name in found if name != MANIFEST]
    files = {name: file_entry(folder / name) for name in sorted(names)}
    content = add_checksum({"format": format_name, "files": files})
    atomic_write_text(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def read_manifest(
    folder: Path, format_name: str, fix: str, *, may_be_unsealed: bool = False
) -> dict[str, dict[str, Any]]:
    """name → {"size", "sha256"} of a folder's manifest, checked against its own SHA-256.

    Args:
        folder: The folder of the manifest.
        format_name: The format that the manifest must have.
        fix: The fix in messages.
        may_be_unsealed: Accept a manifest without a SHA-256 of its own, as earlier versions wrote.

    Raises:
        UserError: for a manifest that is missing, malformed, of another format or changed.
    """
    path = folder / MANIFEST
    content = read_json_object(path, fix=fix)
    fields = Fields(content, path, fix)
    if fields.text("format") != format_name:
        fields.refuse(f"its format is {short(content['format'])}, not {format_name}")
    unsealed = may_be_unsealed and set(content) == {"format", "files"}
    if not unsealed and add_checksum(content)["sha256"] != fields.text("sha256"):
        raise UserError(f"{path} does not match its own SHA-256: {CHANGED}.", fix)
    files = fields.object("files")
    entries = {}
    for name in files.values:
        entry = files.object(name)
        entries[name] = {"size": entry.integer("size"), "sha256": entry.text("sha256")}
        check_name(name, path)  # links may leave the folder, as in Hugging Face's cache: the checksum decides
    return entries


def verify_folder(
    folder: Path, format_name: str, fix: str, *, read: Iterable[str] = (), may_be_unsealed: bool = False
) -> dict[str, dict[str, Any]]:
    """Check every file in the manifest of `folder`; returns its entries.

    Args:
        folder, format_name, fix: As for `read_manifest`.
        read: Names of files that the caller reads if they exist; they must be in the manifest.
        may_be_unsealed: As for `read_manifest`.

    Raises:
        UserError: for the first file that is missing, unlisted, or has another size or SHA-256.
    """
    entries = read_manifest(folder, format_name, fix, may_be_unsealed=may_be_unsealed)
    for name in read:
        if name not in entries and os.path.lexists(folder / name):
            raise UserError(f"{folder / name} is not in the folder's {MANIFEST}: the file was added later.", fix)
    for name, expected in entries.items():
        verify_file(folder / name, expected, fix)
    return entries


def verify_file(path: Path, expected: dict[str, Any], fix: str) -> None:
    try:
        actual = file_entry(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing.", fix) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {os_error_reason(error)}.", PATH_FIXES.get(error.errno or 0, fix)
        ) from None
    if actual["size"] != expected["size"]:
        sizes = f"{actual['size']:,} bytes, not the {expected['size']:,} of its manifest"
        raise UserError(f"{path} has {sizes}: {CHANGED}.", fix)
    if actual["sha256"] != expected["sha256"]:
        raise UserError(f"{path} does not match its manifest (SHA-256 differs): {CHANGED}.", fix)
