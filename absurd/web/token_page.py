"""The pages that a person sees who follows the link of a token: complete in themselves, on a phone too, without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC
from html import escape

from starlette.responses import HTMLResponse

from absurd.queries.tokens import TokenInfo
from absurd.web.token_form import Field, Form, choice_label, choice_text

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1.05rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 0 auto; padding: 1.5rem 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; }
.text { white-space: pre-line; }
.hint, footer { opacity: .7; font-size: .9rem; }
.problem { border-left: .3rem solid #c22; padding-left: .8rem; white-space: pre-line; }
label, fieldset { display: block; margin: 1rem 0; border: 0; padding: 0; }
input, textarea, select { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; margin-top: .2rem; }
button { font: inherit; padding: .7rem 1.4rem; margin: .3rem .3rem .3rem 0; border: 1px solid; border-radius: .4rem; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# The link is a secret: no cache keeps the page, no other site hears of it, nothing is loaded, nobody frames it.
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


def question_page(
    info: TokenInfo, form: Form, given: Mapping[str, str] | None = None, problem: str | None = None
) -> HTMLResponse:
    """The question with its form; after a refused answer with what was filled in, and why it was refused."""
    title = info.title or "Your answer is needed"
    parts = [f"<h1>{escape(title)}</h1>"]
    if info.description:
        parts.append(f'<p class="text">{escape(info.description)}</p>')
    if problem is not None:
        parts.append(f'<p class="problem" role="alert">{escape(problem)}</p>')
    parts += ['<form method="post" accept-charset="utf-8">', *_controls(form, given or {}), "</form>"]
    if info.expires_at is not None:
        parts.append(f"<footer>This link works once, until {info.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC.</footer>")
    else:
        parts.append("<footer>This link works once.</footer>")
    return _page(200 if problem is None else 422, title, parts)


def message_page(status: int, title: str, text: str) -> HTMLResponse:
    """A page that only says something."""
    return _page(status, title, [f"<h1>{escape(title)}</h1>", f'<p class="text">{escape(text)}</p>'])


def _page(status: int, title: str, parts: list[str]) -> HTMLResponse:
    body = "\n".join(parts)
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
    return HTMLResponse(text.encode("utf-8", "replace"), status, _HEADERS)


def _controls(form: Form, given: Mapping[str, str]) -> list[str]:
    buttons = form.buttons
    parts = [_control(field, given.get(field.name, "")) for field in form.fields if field is not buttons]
    if buttons is None:
        return [*parts, '<button type="submit">Send</button>']
    # Enter in a field presses the first button of a form, which would be "Yes"; if that one is disabled, it presses none.
    unpressed = '<button type="submit" disabled hidden></button>'
    # The legend of an answer that is nothing but buttons would repeat the name of a type.
    legend = f"<legend>{escape(buttons.label)}</legend>" if form.is_object else ""
    shown = "".join(
        f'<button type="submit" name="{escape(buttons.name)}" value="{escape(choice_text(choice))}">'
        f"{escape(choice_label(choice))}</button>"
        for choice in buttons.choices
    )
    return [unpressed, *parts, f"<fieldset>{legend}{_hint(buttons)}{shown}</fieldset>"]


def _control(field: Field, text: str) -> str:
    name, value = f'name="{escape(field.name)}"', escape(text)
    needed = " required" if field.required and not field.nullable and field.kind != "text" else ""
    if field.kind == "choice":
        options = "".join(
            f'<option value="{escape(choice_text(choice))}"{" selected" if choice_text(choice) == text else ""}>'
            f"{escape(choice_label(choice))}</option>"
            for choice in field.choices
        )
        control = f'<select {name}{needed}><option value=""></option>{options}</select>'
    elif field.kind == "number":
        control = f'<input type="number" step="{1 if field.whole else "any"}" {name} value="{value}"{needed}>'
    elif field.kind in ("line", "date"):
        control = f'<input type="{"date" if field.kind == "date" else "text"}" {name} value="{value}"{needed}>'
    else:
        # A first line break in a textarea is not part of its text.
        control = f'<textarea rows="{6 if field.kind == "json" else 2}" {name}{needed}>\n{value}</textarea>'
    label = escape(field.label) + (" (as JSON)" if field.kind == "json" else "" if field.required else " (optional)")
    return f"<label>{label.strip()}{_hint(field)}{control}</label>"


def _hint(field: Field) -> str:
    return f'<br><span class="hint">{escape(field.hint)}</span><br>' if field.hint else ""
