# SPDX-License-Identifier: GPL-3.0-or-later
"""Types to JSON Schema (2020-12). The dataclasses are the one source; this only reads them.

A *closed* schema is of a file that a person writes: unknown keys are refused, `Doc.written_as` says what may be
written instead of the type's own form, and a mapping or group that may be left out may also be left empty.
An open one is of what programs send each other: a newer peer may say more.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rbee.contracts import codec
from rbee.core.doc import Doc

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema_of(kind: type, *, title: str, closed: bool) -> dict[str, Any]:
    """A whole schema with `$defs`. Raises TypeError for a type that has no JSON, or two types of one name."""
    made = Schemas(closed=closed)
    reference = made.of(kind)
    body = made.defs.pop(reference["$ref"].rsplit("/", 1)[1])
    head = {"$schema": DIALECT, "title": title}
    return {**head, **body, **({"$defs": dict(sorted(made.defs.items()))} if made.defs else {})}


class Schemas:
    """Collects the definitions of every type it is asked about in `defs`."""

    def __init__(self, *, closed: bool) -> None:
        self.closed = closed
        self.defs: dict[str, dict[str, Any]] = {}
        self._types: dict[str, type] = {}

    def of(self, kind: Any, doc: Doc | None = None) -> dict[str, Any]:
        """Schema of a type, with what `doc` says of it."""
        kind, doc = _unannotated(kind, doc)
        made = self._bare(kind)
        if doc is None:
            return made
        if self.closed and doc.written_as is not None:
            made = _in_values(kind, dict(doc.written_as))
        return _with(made, doc)

    def _bare(self, kind: Any) -> dict[str, Any]:
        if kind is Any:
            return {}
        if kind in _SIMPLE:
            return {"type": _SIMPLE[kind]}
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)):
            return self._reference(kind)
        origin, args = get_origin(kind), get_args(kind)
        if origin is Literal:
            return {"enum": list(args)}
        if origin in (Union, types.UnionType):
            return _one_of([self.of(a) for a in args])
        if origin is tuple and (len(args) < 2 or args[1] is not ...):
            items = [self.of(a) for a in args]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        if origin in (tuple, list):
            return {"type": "array", "items": self.of(args[0])}
        if origin is dict and args[0] is str:
            return {"type": "object", "additionalProperties": self._value(args[1])}
        raise TypeError(f"{kind!r} has no JSON Schema")

    def _value(self, kind: Any) -> dict[str, Any]:
        """A mapping's value: one with nothing required may be left empty in a file (`localhost:`)."""
        made = self.of(kind)
        return _one_of([made, {"type": "null"}]) if self._may_be_empty(kind) else made

    def _reference(self, kind: type) -> dict[str, Any]:
        name = kind.__name__
        if self._types.setdefault(name, kind) is not kind:
            raise TypeError(f"two types are called {name}: {kind!r} and {self._types[name]!r}")
        if name not in self.defs:
            self.defs[name] = {}
            self.defs[name] = self._object(kind)
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, kind: type) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required: list[str] = []
        if dataclasses.is_dataclass(kind):
            for field, hint, doc in self.fields(kind):
                properties[field.name] = self._property(field, hint, doc)
                if _default(field) is dataclasses.MISSING:
                    required.append(field.name)
        else:
            properties = {name: self.of(hint) for name, hint in typing.get_type_hints(kind).items()}
            required = sorted(getattr(kind, "__required_keys__", ()))
        return {
            "type": "object",
            **({"description": _first_paragraph(kind.__doc__)} if _own_doc(kind) else {}),
            "properties": properties,
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if self.closed else {}),
        }

    def fields(self, kind: type) -> list[tuple[dataclasses.Field[Any], Any, Doc | None]]:
        """Fields of a dataclass with type and doc; in a closed schema only those that are written."""
        hints = typing.get_type_hints(kind, include_extras=True)
        found = [(f, *_unannotated(hints[f.name], None)) for f in dataclasses.fields(kind)]
        return [(f, hint, doc) for f, hint, doc in found if not self.closed or doc is None or doc.written]

    def _property(self, field: dataclasses.Field[Any], hint: Any, doc: Doc | None) -> dict[str, Any]:
        made = self.of(hint, doc)
        if self._may_be_empty(hint):
            description = made.pop("description", None)
            made = _one_of([made, {"type": "null"}])
            made |= {"description": description} if description else {}
        default = _default(field)
        if default is not dataclasses.MISSING and default is not None:
            said = _said(codec.plain(default))
            if said not in ({}, [], ()):
                made["default"] = said
        return made

    def _may_be_empty(self, kind: Any) -> bool:
        kind, _ = _unannotated(kind, None)
        if not self.closed:
            return False
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return all(_default(f) is not dataclasses.MISSING for f in dataclasses.fields(kind))
        return get_origin(kind) is dict


def _unannotated(kind: Any, doc: Doc | None) -> tuple[Any, Doc | None]:
    """The type inside `Annotated`, and its `Doc` (the outermost of several) unless one was given."""
    if get_origin(kind) is not Annotated:
        return kind, doc
    inner, *notes = get_args(kind)
    return inner, doc or next((n for n in reversed(notes) if isinstance(n, Doc)), None)


def _in_values(kind: Any, written: dict[str, Any]) -> dict[str, Any]:
    """A mapping's `written_as` is of its values."""
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": written}
    return written


def _with(made: dict[str, Any], doc: Doc) -> dict[str, Any]:
    """`made` with the doc's words put where they belong: bounds of a scalar, description beside a `$ref`."""
    said = {
        "minimum": doc.minimum,
        "maximum": doc.maximum,
        "pattern": doc.pattern,
        "minLength": doc.min_length,
        "maxLength": doc.max_length,
        "minItems": doc.min_items,
        "maxItems": doc.max_items,
        "enum": list(doc.enum) if doc.enum else None,
        "propertyNames": {"pattern": doc.key_pattern} if doc.key_pattern else None,
        "examples": [doc.example] if doc.example is not None else None,
    }
    text = " ".join(t for t in (doc.text, made.get("description", "")) if t)
    return {**made, "description": text, **{key: value for key, value in said.items() if value is not None}}


def _one_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Either of the schemas; plain types are put in one list, as people write them."""
    if all(set(s) == {"type"} and isinstance(s["type"], str) for s in schemas):
        return {"type": [s["type"] for s in schemas]}
    null = {"type": "null"}
    if len(schemas) == 2 and schemas[1] == null and isinstance(schemas[0].get("type"), str):
        return {**schemas[0], "type": [schemas[0]["type"], "null"]}
    return {"anyOf": schemas}


def _default(field: dataclasses.Field[Any]) -> Any:
    """The field's default value, or MISSING."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _said(value: Any) -> Any:
    """A default without what is unset in it."""
    if isinstance(value, dict):
        shown = {k: _said(v) for k, v in value.items()}
        return {k: v for k, v in shown.items() if v is not None and v not in ({}, [], ())}
    return value


def _own_doc(kind: type) -> bool:
    """Whether a person wrote the docstring: `dataclass` makes one up, `Name(field: type, ...)`."""
    return bool(kind.__doc__) and not str(kind.__doc__).startswith(f"{kind.__name__}(")


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())
