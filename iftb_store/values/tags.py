r"""Lists of texts, e.g. the tags of a trade, as the text that every engine stores: JSON in one normal form.

The form is a JSON array without white space. In its texts a quote is written as ``\u0022`` and a comma as ``\u002c``, so that
both occur only between texts: a list contains a text if and only if the stored list contains `encode_item` of the text. So
every engine finds it with its function for substrings, and equal lists are equal texts.
"""

from __future__ import annotations

import json

from iftb_store.errors import InvalidValueError
from iftb_store.values.checks import name_text
from iftb_store.values.display import type_name

#: Maximum number of texts in a list.
MOST_ITEMS = 1_000


def check_texts(value: object, name: str) -> list[str]:
    """Return a list or tuple of names as a new list; otherwise raise InvalidValueError."""
    if not isinstance(value, list | tuple):
        raise InvalidValueError(f"{name} must be a list of texts, not {type_name(value)}")
    if len(value) > MOST_ITEMS:
        raise InvalidValueError(f"{name} has {len(value):,} texts; at most {MOST_ITEMS:,} are allowed")
    return [name_text(item, f"{name}[{place}]") for place, item in enumerate(value)]


def encode_texts(texts: list[str]) -> str:
    """Return a list of texts in the form in which it is stored."""
    return f"[{','.join(map(encode_item, texts))}]"


def encode_item(text: str) -> str:
    """Return one text, with its quotes, as `encode_texts` writes it."""
    written = json.dumps(text, ensure_ascii=False)[1:-1]
    return '"' + written.replace('\\"', "\\u0022").replace(",", "\\u002c") + '"'


def decode_texts(stored: str) -> list[str]:
    """Convert a stored list back to a list of texts.

    Raises:
        ValueError: the text is not a JSON array of texts; raw SQL can have stored it.
    """
    texts = json.loads(stored)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("it is not a JSON array of texts")
    return texts
