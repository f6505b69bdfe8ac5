"""Mutations of small valid files: of the structure of JSON, JSON lines and YAML, and of the bytes of anything."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 10**9, -(10**9), 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "x", "nan", "auto", "../../x", "/etc/passwd", "a\0b", "\x1b[2J", "\ud800", "é" * 50,
    "9" * 400, "A" * 5000, [], [1], [[]], ["a", "a"], [None], {}, {"a": 1}, {"": None}, {"name": "x"},
]  # fmt: skip
NASTY_TEXTS = [
    "[" * 2000, "{" * 40, '{"a":' * 500, "9" * 5000, "1e999", "NaN", '{"a": 1, "a": 2}', "\ufeff", "\0", "\t", "\r",
    "\n", ",", '"', "&a ", "*a", "!!timestamp x", "!!set {a}", "1: 2\n", "null: 1\n", "? [a]\n: 1\n", "a: &b [*b]\n",
    "0x" + "f" * 3000, "1:1:1:1" * 90, "- ", "<<: x\n", "=: 1\n", "\x1b]0;x\x07", "\u2028", "%", "|\n", "Ġ", "</w>",
]  # fmt: skip
NASTY_BYTES = [
    b"",
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"\0\0\0\0\0\0\0\x80",
    b"PAR1",
    b"\x1f\x8b\x08",
    b"NUMPY",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside `value`, itself among them."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def mutate_tree(value: Any, random: Random) -> Any:
    """A copy with a value replaced, a key removed, renamed or added, or a value wrapped."""
    value = copy.deepcopy(value)
    path = random.choice(places(value))
    if not path:
        return random.choice(NASTY)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key, what = path[-1], random.random()
    if what < 0.6:
        parent[key] = random.choice(NASTY)
    elif what < 0.75:
        del parent[key]
    elif what < 0.85:
        inner = parent[key]
        for _ in range(random.choice((1, 2, 40))):
            inner = [inner] if random.random() < 0.5 else {"a": inner}
        parent[key] = inner
    elif isinstance(parent, dict):
        parent[random.choice(["", "x", "name", "../x", "a" * 300, *map(str, parent)])] = random.choice(NASTY)
    else:
        parent.append(random.choice(NASTY))
    return value


def mutate_json(data: bytes, random: Random) -> bytes:
    if random.random() < 0.3:
        return mutate_text(data, random)
    value = json.loads(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = mutate_tree(value, random)
    return json.dumps(value).encode()


def mutate_lines(data: bytes, random: Random) -> bytes:
    """JSON lines: one of them mutated, repeated or removed."""
    lines = data.splitlines() or [b""]
    i = random.randrange(len(lines))
    what = random.random()
    if what < 0.8:
        lines[i] = mutate_json(lines[i], random) if lines[i].strip() else b"{"
    elif what < 0.9:
        del lines[i]
    else:
        lines += [lines[i]] * random.choice((1, 50))
    return b"\n".join(lines) + b"\n"


def mutate_yaml(data: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        return mutate_text(data, random)
    value = mutate_tree(yaml.safe_load(data), random)
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):  # numbers that YAML cannot represent
        return mutate_text(data, random)


def mutate_text(data: bytes, random: Random) -> bytes:
    """Text inserted, removed or repeated, mostly next to the punctuation of a format."""
    text = data.decode("utf-8", "replace")
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(text) + 1)
        punctuation = [i for i, c in enumerate(text[:4000]) if c in '\n,:"{}[]\t ']
        if punctuation and random.random() < 0.7:
            at = random.choice(punctuation) + random.randrange(2)
        end = min(len(text), at + random.choice((0, 0, 1, 5, 40)))
        text = text[:at] + random.choice([*NASTY_TEXTS, "", text[at : at + 30] * 2]) + text[end:]
    return text.encode("utf-8", "surrogatepass")


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Bits flipped, bytes inserted, removed, zeroed or truncated. Half of the places are near the beginning or the end,
    where formats have their headers."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        n = len(changed)
        at = random.randrange(n + 1)
        if random.random() < 0.5:
            at = random.choice((min(n, random.randrange(200)), max(0, n - random.randrange(1, 200))))
        what = random.random()
        if what < 0.4 and at < n:
            changed[at] ^= 1 << random.randrange(8)
        elif what < 0.6:
            changed[at:at] = random.choice(NASTY_BYTES)
        elif what < 0.75:
            del changed[at : at + random.choice((1, 4, 100))]
        elif what < 0.85:
            changed[at : at + 8] = random.choice((b"\0" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f"))
        elif what < 0.95:
            del changed[at:]
        else:
            changed += changed[-100:]
    return bytes(changed)


MUTATIONS = {
    "json": mutate_json, "lines": mutate_lines, "yaml": mutate_yaml, "text": mutate_text, "binary": mutate_bytes
}  # fmt: skip


def reseal(folder: Path) -> None:
    """Make the manifests below a folder fit their files again, so that a reader gets past the checksums."""
    from gpt1.corpus.shards import manifest_fingerprint
    from gpt1.files.manifest import add_checksum

    for path in folder.rglob("manifest.json"):
        try:
            manifest = json.loads(path.read_text())
            for name, entry in manifest["files"].items():
                if (file := path.parent / name).is_file():
                    entry |= {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            if "fingerprint" in manifest:
                manifest["fingerprint"] = manifest_fingerprint(manifest)
            if "sha256" in manifest:
                manifest = add_checksum(manifest)
            path.write_text(json.dumps(manifest))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # itself mutated
            continue
