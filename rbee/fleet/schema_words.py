# SPDX-License-Identifier: GPL-3.0-or-later
"""The words for what a schema refuses: no keyword of JSON Schema reaches a person."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbee.core import spec_words
from rbee.core.document import Path
from rbee.core.problems import did_you_mean
from rbee.core.redact import is_telling

_KINDS = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
}
#: What a pattern of the spec asks for, and words that are right.
_PATTERNS: dict[str, tuple[str, tuple[str, ...]]] = {
    spec_words.NAME: ("Letters, digits, `.`, `_` and `-`, at most 63, the first a letter or a digit.", ()),
    spec_words.MODEL_NAME: ("Letters, digits and `. _ : / @ + -`, at most 128, the first a letter or a digit.", ()),
    spec_words.DEVICE: (
        "A device is cpu, cuda:N, metal:N, rocm:N, vulkan:N or auto.",
        ("cpu", "auto", "cuda:0", "metal:0"),
    ),
    spec_words.ADDRESS: ("An address is HOST:PORT, such as 127.0.0.1:7833 or [::1]:7833.", ()),
    spec_words.HOST: ("One word without `@`, `/` and spaces, and no `-` in front.", ()),
    spec_words.LOGIN: ("Write a Host of ~/.ssh/config, or [user@]host[:port].", ()),
    spec_words.DURATION: ("A duration is 30s, 5m, 2h or 1d.", ()),
    r"^[0-9]{1,5}-[0-9]{1,5}$": ("Ports are FIRST-LAST, such as 9300-9999.", ()),
    r"^[0-9a-f]{64}$": ("A SHA-256 is 64 digits of 0-9 and a-f; `sha256sum FILE` prints it.", ()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    summary: str
    detail: str = ""
    mend: str = ""


def matches(pattern: str, text: str) -> bool:
    """Whether JSON Schema's pattern matches: its `$` is the very end."""
    return re.search(re.sub(r"\$$", r"\\Z", pattern), text) is not None


def label(path: Path) -> str:
    """`workers.chat.options`; items of lists as `models[0]`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """A value as a person would say it, short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(name: str, known: Sequence[str]) -> str:
    """The key that was meant, or an empty text."""
    plain = name.lower().replace("-", "_")
    found = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    return found[0] if found else ""


def _last(path: Path) -> str:
    names = [step for step in path if isinstance(step, str)]
    return names[-1] if names else "the file"


def unknown_key(
    name: str, path: Path, known: Sequence[str], near: str, whole: Mapping[str, Any], here: Mapping[str, Any]
) -> Told:
    """For a key that is not there: the near one, or where a key of that name belongs."""
    of = f"`{label(path)}`" if path else "the file"
    summary = f"Unknown key {name!r} in {of}."
    if is_telling(name):
        detail = "A secret is never written in this file: it would be copied, committed and shown."
        mend = "Put it in a file that only you can read (chmod 600)"
        key = next((k for k in known if k.endswith("_file")), "")
        return Told(summary=summary, detail=detail, mend=f"{mend} and name that: {key}: PATH." if key else f"{mend}.")
    inside = [k for k, s in here.get("properties", {}).items() if name in _keys_of(s, whole)]
    if inside:
        return Told(summary=summary, mend=f"It belongs in `{inside[0]}:`.")
    if near:
        return Told(summary=summary, mend=f"Did you mean {near!r}?")
    if path and name in whole.get("properties", {}):
        return Told(summary=summary, mend=f"`{name}:` belongs at the top of the file, not indented.")
    return Told(summary=summary, mend=did_you_mean(name, known))


def _keys_of(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> set[str]:
    """Keys of the mapping that a property is, when it is one with keys of its own."""
    forms = [schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    names = [form["$ref"].rsplit("/", 1)[1] for form in forms if "$ref" in form]
    return {key for name in names for key in whole["$defs"][name].get("properties", {})}


def missing_key(name: str, path: Path, schema: Mapping[str, Any]) -> Told:
    about = schema["properties"][name]
    of = f"`{label(path)}`" if path else "The file"
    example = (about.get("examples") or [about.get("type", "...")])[0]
    example = "..." if example == "string" else example
    return Told(
        summary=f"{of} does not say `{name}`.", detail=about.get("description", ""), mend=f"Add `{name}: {example}`."
    )


def bad_name(name: str, pattern: str) -> Told:
    words, _ = _PATTERNS.get(pattern, (f"It must match {pattern}.", ()))
    better = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:63]
    mend = f"Call it {better!r}." if better and better != name and matches(pattern, better) else "Rename it."
    return Told(summary=f"{name!r} cannot be a name.", detail=words, mend=mend)


def kinds(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> list[str]:
    """Types that a schema with several forms takes."""
    found: list[str] = []
    for form in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        kind = "object" if "$ref" in form else form.get("type", [])
        found += [kind] if isinstance(kind, str) else kind
    return found


def wrong_kind(value: Any, wanted: Sequence[str], schema: Mapping[str, Any], path: Path) -> Told:
    """For a value of another type than any that is taken."""
    names = [_KINDS[k] for k in dict.fromkeys(wanted) if k in _KINDS]
    expected = " or ".join(names)
    name = _last(path)
    mend = ""
    if "string" in wanted and isinstance(value, (int, float)):
        said = str(value).lower() if isinstance(value, bool) else str(value)
        mend = f'Put it in quotes: "{said}".'
    elif "boolean" in wanted and isinstance(value, str) and value.lower() in ("yes", "on", "no", "off"):
        mend = f"Write {'true' if value.lower() in ('yes', 'on') else 'false'}."
    elif "array" in wanted and isinstance(value, (str, int, float)):
        mend = f"Write a list: {name}: [{value}]."
    elif set(wanted) & {"integer", "number"}:
        if isinstance(value, str) and re.fullmatch(r"[0-9.]+", value):
            mend = f"Write it without quotes: {value}."
    elif "object" in wanted and value is not None:
        mend = f"Write the keys under `{name}:`, indented." if path else "`rbee init` writes one to start from."
    about = str(schema.get("description", ""))
    what = f"`{label(path) or name}`" if path else "The file"
    return Told(summary=f"{what} must be {expected}, not {shown(value)}.", detail=about, mend=mend)


def value_problem(error: Any, around: Mapping[str, Any]) -> Told:
    """For a value of the right type that is not possible; or of a wrong one."""
    value, limit, path = error.instance, error.validator_value, tuple(error.absolute_path)
    about = str(around.get("description") or error.schema.get("description") or "")
    name = f"`{label(path)}`"
    if error.validator == "type":
        return wrong_kind(value, [limit] if isinstance(limit, str) else limit, around, path)
    if error.validator == "pattern":
        words, right = _PATTERNS.get(limit, (f"It must match {limit}.", ()))
        near = difflib.get_close_matches(str(value).lower(), right, n=1, cutoff=0.5)
        mend = _as_pattern(str(value), limit) or (f"Did you mean {near[0]!r}?" if near else "")
        return Told(summary=f"{name}: {shown(value)} is not possible.", detail=words, mend=mend)
    if error.validator in ("enum", "const"):
        known = [str(v) for v in (limit if isinstance(limit, list) else [limit])]
        return Told(summary=f"{name}: {shown(value)} is not known.", detail=about, mend=did_you_mean(str(value), known))
    said = {
        "minimum": f"{name}: {shown(value)} is too small; the least is {limit}.",
        "maximum": f"{name}: {shown(value)} is too large; the most is {limit}.",
        "minLength": f"{name} is empty." if limit == 1 else f"{name} is shorter than {limit} characters.",
        "maxLength": f"{name} is longer than {limit} characters.",
        "minItems": f"{name} needs at least {limit} item{'s' if limit != 1 else ''}.",
        "maxItems": f"{name} has more than {limit} items.",
        "uniqueItems": f"{name} has an item twice.",
    }
    return Told(summary=said.get(str(error.validator), f"{name}: {error.message}."), detail=about)


def _as_pattern(value: str, pattern: str) -> str:
    """The value put right, where it is plain how."""
    device = re.fullmatch(r"(cuda|gpu|metal|rocm|vulkan)[-_ :]?([0-9]*)", value.lower())
    if pattern == spec_words.DEVICE and device:
        kind = "cuda" if device[1] == "gpu" else device[1]
        return f"Write {kind}:{device[2] or 0}."
    if pattern == spec_words.ADDRESS and re.fullmatch(r"[A-Za-z0-9.-]+", value):
        return f"Write {'127.0.0.1:' + value if value.isdigit() else value + ':7833'}."
    return ""
