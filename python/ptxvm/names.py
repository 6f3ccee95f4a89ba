"""Readable names of kernels, and finding one by the name that its author wrote."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

CAST = re.compile(r"\(([A-Za-z_][\w: ]*)\)(-?\d+)")
SUFFIX = re.compile(r"(?<![\w.])(-?\d+)[uUlL]+\b")


def demangle(names: Sequence[str]) -> list[str]:
    """Readable names, where c++filt or the toolkit's own filter is installed."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if not names or tool is None:
        return list(names)
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def plain(name: str) -> str:
    """A name with template arguments as one writes them: ``f<(int)64, (bool)0>`` becomes ``f<64,false>``."""

    def uncast(match: re.Match[str]) -> str:
        kind, value = match.groups()
        return ("false" if value == "0" else "true") if kind == "bool" else value

    return re.sub(r"\s*([,<>])\s*", r"\1", SUFFIX.sub(r"\1", CAST.sub(uncast, name)))


def function_name(signature: str) -> str:
    """The name in a readable signature, without return type and parameters, template arguments included."""
    text = plain(signature).replace("(anonymous namespace)::", "")
    if text.endswith(")"):
        depth = 0
        for at in range(len(text) - 1, -1, -1):
            depth += {")": 1, "(": -1}.get(text[at], 0)
            if depth == 0:
                text = text[:at]
                break
    depth = 0
    for at in range(len(text) - 1, -1, -1):
        depth += {">": 1, "<": -1}.get(text[at], 0)
        if depth == 0 and text[at] == " ":
            return text[at + 1 :]
    return text


def matching(name: str, readable: Mapping[str, str]) -> list[str]:
    """The mangled names of ``readable`` (mangled to readable) that ``name`` can mean, by the first rule that fits any.

    The rules: the mangled or readable name itself; the function's name with its template arguments; a part of either.
    """
    if name in readable:
        return [name]
    wanted = plain(name)
    rules = (
        lambda mangled, text: text == name,
        lambda mangled, text: f"::{function_name(text)}".endswith(f"::{wanted}"),
        lambda mangled, text: wanted in plain(text) or name in mangled,
    )
    for rule in rules:
        found = [mangled for mangled, text in readable.items() if rule(mangled, text)]
        if found:
            return found
    return []
