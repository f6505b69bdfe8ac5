"""Settings of `gpt1 serve`: flags and checks are made from them, as for training (gpt1/config.py)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from gpt1.config import Count, Precision, Range, merge_settings
from gpt1.errors import UserError
from gpt1.files.foreign import read_bounded

KEY_VARIABLE = "GPT1_API_KEY"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_KEY_BYTES = 4096


@dataclass(frozen=True)
class ServeConfig:
    """Settings of the server."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all interfaces. Any address but loopback requires an API key."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on; 0: any free port."""
    api_key_file: str = ""
    """File with the API key that clients must send. Default: the environment variable GPT1_API_KEY."""
    allowed_hosts: str = ""
    """Allowed names in the Host header, comma-separated. Default: the loopback names and --host; with --host 0.0.0.0,
    any name."""
    cors_origins: str = ""
    """Origins of web pages that may call the server (CORS), comma-separated, such as https://example.org."""
    device: str = "auto"
    """`auto` (a GPU if available, else the CPU), cpu, cuda, cuda:1 or mps."""
    precision: Precision = "fp32"
    """Activation type: `fp32`, `bf16` (faster and less exact), or `auto` (bf16 if the device supports it natively)."""
    max_batch: Count = 32
    """Maximum number of texts that a model continues at once. Each takes one row of the KV cache."""
    step_tokens: Count = 256
    """Maximum number of tokens per forward pass, but at least 64 of prompts. A larger value processes prompts faster; a
    smaller one shortens the time between two tokens of a text."""
    max_queue: Count = 1024
    """Maximum number of unfinished texts and rows per model. Further requests get status 429."""
    max_connections: Count = 1000
    """Maximum number of open connections. Further ones get status 503."""
    max_body: Count = 2**20
    """Maximum size of a request in bytes."""
    max_texts: Count = 512
    """Maximum number of texts or rows per request; for completions, prompts times n."""
    max_characters: Count = 100_000
    """Maximum number of characters per text, checked before tokenization."""
    max_new_tokens: Count = 4096
    """Maximum number of new tokens per text."""
    timeout: Annotated[float, Range(0, exclude_low=True)] = 300.0
    """Time limit of a request, in seconds."""
    drain_timeout: Annotated[float, Range(0)] = 60.0
    """Time to finish accepted requests after SIGTERM, in seconds."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str]:
        """The values of the Host header that are allowed, without ports; empty: any."""
        if self.allowed_hosts:
            return frozenset(split_list(self.allowed_hosts))
        if self.host in ("0.0.0.0", "::"):
            return frozenset()
        own = f"[{self.host}]" if ":" in self.host else self.host
        return frozenset({*LOOPBACK_NAMES, own.lower()})


def serve_settings(flags: Mapping[str, Any]) -> ServeConfig:
    """The settings of flags (None: not given). Raises UserError for a value that is not allowed."""
    return merge_settings(ServeConfig, {name: value for name, value in flags.items() if value is not None})


def read_api_key(config: ServeConfig, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The API key from the file or the environment; None if there is none.

    Raises:
        UserError: The file cannot be read, the key is unusable, or there is none off loopback.
    """
    if config.api_key_file:
        source, raw = config.api_key_file, read_bounded(Path(config.api_key_file), MAX_KEY_BYTES)
    else:
        source, raw = KEY_VARIABLE, environment.get(KEY_VARIABLE, "").encode("utf-8", "surrogateescape")
    key = raw.strip()
    if not key and not config.api_key_file:
        if config.is_loopback:
            return None
        problem = f"--host {config.host} can be reached from other machines, and there is no API key."
        raise UserError(problem, f"Put a key into a file and use --api-key-file FILE, or set {KEY_VARIABLE}.")
    if not key or not key.isascii() or any(byte <= 32 or byte == 127 for byte in key):
        raise UserError(f"{source} does not hold an API key.", "Use one line of ASCII letters, digits and symbols.")
    return key


def split_list(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]
