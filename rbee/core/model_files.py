# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of a listing are a model: quantizations, shards that belong together, MLC folders. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from posixpath import basename, dirname

from rbee.core.errors import InvalidRequest, NotFound
from rbee.core.problems import did_you_mean

#: More parts than any model has: a name that claims more is a trick or a mistake.
MAX_SHARDS = 1000
#: What is taken when nobody says: 4 bits in the middle size is the usual trade, as llama.cpp and Ollama have it;
#: then its neighbours, then larger ones, then smaller ones. What is not listed comes after, full precision last.
ORDER = (
    *("Q4_K_M", "Q4_K_S", "Q4_K_L", "Q4_K_XL", "Q4_K", "IQ4_NL", "IQ4_XS", "MXFP4", "MXFP4_MOE", "Q4_0", "Q4_1"),
    *("Q5_K_M", "Q5_K_S", "Q5_K_L", "Q5_K_XL", "Q5_K", "Q5_0", "Q5_1", "Q6_K", "Q6_K_L", "Q6_K_XL", "Q8_0", "Q8_K_XL"),
    *("Q3_K_L", "Q3_K_XL", "Q3_K_M", "IQ3_M", "Q3_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K_L", "Q2_K_XL", "Q2_K"),
)
_LAST = ("BF16", "F16", "F32")
_LABEL = r"(?:UD-)?(?:I?Q[1-8](?:_[0-9A-Z]{1,4}){0,4}|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32)"
_QUANTIZATION = re.compile(rf"(?<![A-Z0-9])({_LABEL})(?![A-Z0-9_])", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.*)-(?P<index>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<end>\.gguf)", re.IGNORECASE)
#: The files that an MLC model is made of; a repository has pictures and logs beside them.
_MLC_CONFIG = "mlc-chat-config.json"
_MLC_INDEX = ("tensor-cache.json", "ndarray-cache.json")
_MLC_FILE = re.compile(
    r"(mlc-chat-config|tensor-cache|ndarray-cache|config|generation_config|vocab|added_tokens|special_tokens_map"
    r"|chat_template|processor_config|preprocessor_config)\.json|params_shard_[0-9]+\.bin|merges\.txt|vocab\.txt"
    r"|chat_template\.jinja|[\w.-]*tokenizer[\w.-]*|[\w.-]+\.(tiktoken|spm)"
)


def quantization_of(path: str) -> str | None:
    """`Q4_K_M` of a GGUF's name, in capitals; of its folder's name when its own says none. None for neither."""
    for name in (stem(path), basename(dirname(path))):
        found = _QUANTIZATION.findall(name)
        if found:
            return normal(found[-1])
    return None


def is_quantization(text: str) -> bool:
    return re.fullmatch(_LABEL, text, re.IGNORECASE) is not None


def normal(label: str) -> str:
    """One spelling of a quantization's name: `fp16` and `f16` are F16."""
    return re.sub(r"^FP(?=16$|32$)", "F", label.upper())


def stem(path: str) -> str:
    """A file's name without folder, without `.gguf` and without its number among shards."""
    name = basename(path)
    shard = _SHARD.fullmatch(name)
    return shard["stem"] if shard else re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def is_weights(path: str) -> bool:
    """Whether a name is of a GGUF that can be a model by itself: no projector of pictures, no importance matrix."""
    name = basename(path).lower()
    return is_gguf(name) and "mmproj" not in name and "imatrix" not in name


def shards(path: str) -> tuple[str, ...]:
    """All files that a split GGUF is made of, in order, by the name of any one; `(path,)` for what is not split.

    Raises InvalidRequest for a count that no model has.
    """
    found = _SHARD.fullmatch(path)
    if found is None or not 1 <= int(found["index"]) <= int(found["count"]):
        return (path,)
    count = int(found["count"])
    if count > MAX_SHARDS:
        raise InvalidRequest(
            f"{basename(path)!r} claims {count} parts; no model has more than {MAX_SHARDS}.", mend="Check its name."
        )
    return tuple(_part(found, i) for i in range(1, count + 1))


def head(path: str) -> str:
    """The first of `shards`, which stands for them all."""
    found = _SHARD.fullmatch(path)
    return _part(found, 1) if found and 1 <= int(found["index"]) <= int(found["count"]) else path


def _part(found: re.Match[str], index: int) -> str:
    return f"{found['stem']}-{index:05d}-of-{found['count']}{found['end']}"


def whole(path: str, present: Iterable[str], where: str) -> tuple[str, ...]:
    """`shards`, all of which are `present`. Raises NotFound naming those that `where` does not have."""
    files, there = shards(path), frozenset(present)
    missing = [f for f in files if f not in there]
    if missing:
        shown = ", ".join(basename(f) for f in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise NotFound(
            f"{where} has {len(files) - len(missing)} of the {len(files)} parts of {stem(path)!r}: {shown} "
            f"{'is' if len(missing) == 1 else 'are'} missing.",
            mend="Its upload may not be finished: try later, or another model.",
        )
    return files


def choose(paths: Sequence[str], wanted: str | None, where: str) -> tuple[str, ...]:
    """The files of one model among `paths`: the quantization `wanted` (`latest` and None: the best of `ORDER`).

    A split model counts once, and all its parts are given. Raises NotFound when there is none such (it says which
    there are), or parts of it are missing; InvalidRequest when several could be meant.
    """
    models = list(dict.fromkeys(head(p) for p in paths if is_weights(p)))
    if not models:
        raise NotFound(f"{where} has no GGUF file.", mend="rbee runs GGUF models, and MLC models of their own folders.")
    labels = {m: quantization_of(m) for m in models}
    if wanted is None or wanted.lower() == "latest":
        best = min(_rank(label) for label in labels.values())
        able = [m for m in models if _rank(labels[m]) == best]
    else:
        able = [m for m in models if labels[m] == normal(wanted)]
    if not able:
        known = sorted({label for label in labels.values() if label})
        raise NotFound(
            f"{where} has no {wanted}; it has {', '.join(known) or 'no quantization in its names'}.",
            mend=did_you_mean(normal(str(wanted)), known) if known else f"Name a file: {_listed(models)}.",
        )
    if len(able) > 1:
        raise InvalidRequest(f"{where} has several that could be meant: {_listed(able)}.", mend="Name one of them.")
    return whole(able[0], paths, where)


def _rank(label: str | None) -> tuple[int, str]:
    """Smaller is better; what has no label comes last."""
    if label is None:
        return len(ORDER) + len(_LAST) + 1, ""
    plain = label.removeprefix("UD-")
    if plain in _LAST:
        return len(ORDER) + 1 + _LAST.index(plain), label
    return (ORDER.index(plain), label) if plain in ORDER else (len(ORDER), label)


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(sorted(paths)[:12]) + (", ..." if len(paths) > 12 else "")


def is_mlc(names: Iterable[str]) -> bool:
    """Whether the files of one folder, by their names, are a model of MLC."""
    return _MLC_CONFIG in names


def mlc_files(names: Sequence[str], where: str) -> tuple[str, ...]:
    """What an MLC model needs of a folder's files: its config first, then the rest by name.

    Raises NotFound when it has no configuration, no index of its weights, or no weights.
    """
    files = sorted(n for n in names if _MLC_FILE.fullmatch(n))
    if not is_mlc(names):
        raise NotFound(f"{where} is no MLC model: it has no {_MLC_CONFIG}.", mend="Name the .gguf file in it.")
    if not any(n in files for n in _MLC_INDEX) or not any(n.startswith("params_shard_") for n in files):
        raise NotFound(
            f"{where} has an MLC configuration, but not the weights ({' or '.join(_MLC_INDEX)}, params_shard_*.bin).",
            mend="Its upload may not be finished; a folder with only the compiled library is no model.",
        )
    return (_MLC_CONFIG, *(n for n in files if n != _MLC_CONFIG))


def safe_filename(name: str) -> str:
    """A file name that is one harmless path component; `model.gguf` for one that has nothing to keep."""
    last = basename(name.replace("\\", "/").rstrip("/"))
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", last).lstrip(".-")[-150:].lstrip(".-")
    # The catalog's own files live in the same folder.
    return "model.gguf" if safe in ("", "metadata.json") or safe.endswith((".part", ".part.json")) else safe


def together(files: Sequence[tuple[str, str]]) -> str:
    """The SHA-256 of a model, of its files' names and SHA-256s in the source's order: the one file's own, or that of
    the lines `NAME SHA256`."""
    if len(files) == 1:
        return files[0][1]
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in files).encode()).hexdigest()
