"""What a person is asked for: the fields that follow from a token's JSON Schema, and the answer that follows from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from absurd.errors import ValidationError

# The name of the one field of a form that is no object, and of the text that is JSON.
ANSWER = "answer"
# More buttons than these are a list to choose from.
MAX_BUTTONS = 6
# A schema may name itself.
_MAX_REFERENCES = 20

FieldKind = Literal["choice", "text", "line", "number", "date", "json"]
# Texts of these formats have one line, most an input of their own.
_LINES = ("date", "date-time", "time", "email", "uri", "uuid", "duration")


@dataclass(frozen=True, slots=True)
class Field:
    """One thing to fill in; ``choices`` are the values that it can have."""

    name: str
    kind: FieldKind
    label: str = ""
    hint: str = ""
    required: bool = True
    nullable: bool = False
    whole: bool = False
    choices: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a token. ``is_object``: the answer is an object of them; otherwise it is the value of the only one."""

    fields: Sequence[Field]
    is_object: bool

    @property
    def buttons(self) -> Field | None:
        """The field whose choices are the buttons with which the form is sent."""
        choices = [field for field in self.fields if field.kind == "choice"]
        return choices[0] if len(choices) == 1 and len(choices[0].choices) <= MAX_BUTTONS else None

    def read(self, given: Mapping[str, str]) -> Any:
        """The answer, from texts by the names of the fields. Whether it fits is for the schema to say.

        Raises:
            ValidationError: there is a field too many, or a text is no JSON.
        """
        unknown = sorted(set(given) - {field.name for field in self.fields})
        if unknown:
            raise ValidationError(f"there is no field {unknown[0][:100]!r} in this form")
        found = {field.name: value for field in self.fields for value in _values(field, given.get(field.name))}
        if self.is_object:
            return found
        return found.get(ANSWER)


def choice_text(value: Any) -> str:
    """How a choice is written in a form: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def choice_label(value: Any) -> str:
    """How a choice is shown."""
    return "Yes" if value is True else "No" if value is False else choice_text(value)


def make_form(schema: Any) -> Form:
    """The form for answers of a schema; a single field for JSON when it is too much for a form."""
    node, nullable = _resolve(schema, schema)
    properties = node.get("properties")
    if isinstance(properties, dict) and properties and node.get("type") == "object":
        required = node.get("required", ())
        fields = [_field(schema, name, part, name in required) for name, part in properties.items()]
        if not nullable and all(field.kind != "json" for field in fields):
            return Form(fields, is_object=True)
    return Form([_field(schema, ANSWER, schema, required=True)], is_object=False)


def _field(root: Any, name: str, part: Any, required: bool) -> Field:
    node, nullable = _resolve(root, part)
    kind = node.get("type")
    label = _text(part, "title") or _text(node, "title") or ("" if name == ANSWER else name)
    hint = _text(part, "description") or _text(node, "description")
    choices = _choices(node, kind)
    if choices and len({choice_text(choice) for choice in choices}) == len(choices):
        return Field(name, "choice", label, hint, required, nullable, choices=choices)
    if kind == "string":
        form = node.get("format")
        return Field(
            name,
            "date" if form == "date" else "line" if form in _LINES else "text",
            label,
            hint,
            required,
            nullable,
        )
    if kind in ("number", "integer"):
        return Field(name, "number", label, hint, required, nullable, whole=kind == "integer")
    return Field(name, "json", label, hint, required, nullable)


def _choices(node: Mapping[str, Any], kind: Any) -> Sequence[Any]:
    if kind == "boolean":
        return (True, False)
    if "const" in node:
        return (node["const"],)
    values = node.get("enum", ())
    return values if isinstance(values, list) and all(not isinstance(value, (dict, list)) for value in values) else ()


def _resolve(root: Any, node: Any) -> tuple[Mapping[str, Any], bool]:
    """A part of a schema with its references followed, and whether null stands beside it."""
    nullable = False
    for _ in range(_MAX_REFERENCES):
        if not isinstance(node, dict):
            break
        among = node.get("anyOf")
        if isinstance(among, list):
            rest = [part for part in among if part != {"type": "null"}]
            nullable = nullable or len(rest) < len(among)
            # A decimal is a number or a text; the text keeps it exact.
            texts = [part for part in rest if isinstance(part, dict) and part.get("type") == "string"]
            if len(rest) == 2 and texts and {"type": "number"} in rest:
                rest = texts
            if len(rest) != 1:
                return {}, nullable
            node = rest[0]
        elif isinstance(node.get("allOf"), list) and len(node["allOf"]) == 1:
            node = node["allOf"][0]
        elif isinstance(node.get("$ref"), str):
            node = _look_up(root, node["$ref"])
        else:
            return node, nullable
    return {}, nullable


def _look_up(root: Any, reference: str) -> Any:
    found = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def _text(node: Any, key: str) -> str:
    found = node.get(key) if isinstance(node, dict) else None
    return found if isinstance(found, str) else ""


def _values(field: Field, text: str | None) -> Sequence[Any]:
    """The value of a field; none if it was left out."""
    if text is None:
        return ()
    text = text.replace("\r\n", "\n")
    if field.kind == "choice":
        return [next((value for value in field.choices if choice_text(value) == text), text)] if text else ()
    if not text.strip() and not (field.kind == "text" and field.required and not field.nullable):
        return [None] if field.required and field.nullable else ()
    if field.kind == "json":
        try:
            return [json.loads(text, parse_constant=_no_constant)]
        except (ValueError, RecursionError) as error:
            raise ValidationError(f"{field.label or 'the answer'} is no JSON: {error}") from None
    return [_number(text.strip()) if field.kind == "number" else text]


def _number(text: str) -> Any:
    """The number; what is none stays a text, which the schema refuses with the reason."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, (int, float)) and not isinstance(found, bool) else text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
