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
    """Address to listen on; 0.0.0.0 is every network of this machine. Off loopback an API key is required."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on; 0: any free one."""
    api_key_file: str = ""
    """File with the API key that clients must send. Without it, the environment variable GPT1_API_KEY."""
    allowed_hosts: str = ""
    """Names that clients may call the server by (Host header), comma-separated. Default: the loopback names and --host;
    if --host is every network, any."""
    cors_origins: str = ""
    """Origins whose pages may call the server from a browser, comma-separated, such as https://example.org."""
    device: str = "auto"
    """`auto` (a GPU if available, else the CPU), cpu, cuda, cuda:1 or mps."""
    precision: Precision = "fp32"
    """Activation type: `fp32`, `bf16` (faster and less exact), or `auto` (bf16 if the device supports it natively)."""
    max_batch: Count = 32
    """Most texts that a model continues at a time. Each has a row of the KV cache."""
    step_tokens: Count = 256
    """Most tokens that a model computes at a time: a larger number reads prompts faster, a smaller one keeps the time
    between two tokens of a text short."""
    max_queue: Count = 1024
    """Texts and rows that a model has accepted and not finished. Requests beyond it get status 429."""
    max_connections: Count = 1000
    """Open connections; further ones get status 503."""
    max_body: Count = 2**20
    """Most bytes of a request."""
    max_texts: Count = 512
    """Most texts or rows of a request; for completions prompts times n."""
    max_characters: Count = 100_000
    """Most characters of a text, checked before it is tokenized."""
    max_new_tokens: Count = 4096
    """Most new tokens of a text."""
    timeout: Annotated[float, Range(0, exclude_low=True)] = 300.0
    """Seconds until a request is cancelled."""
    drain_timeout: Annotated[float, Range(0)] = 60.0
    """Seconds that accepted requests have after SIGTERM."""

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
