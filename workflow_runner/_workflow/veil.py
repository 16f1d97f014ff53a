"""Secrets inside what a run records: a name stands for each, and its value is put back when the record is read.

A step may put the text of a secret into its output, such as a connection string. The record says ``***password***`` in
the place of the password, and a resumed run gets the password in its place that it was resumed with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from workflow_runner._core import codec
from workflow_runner._core.secrets import MASK, SHORTEST, secrets_in


@attrs.frozen
class Veil:
    """The secrets of one run.

    Attributes:
        texts: ``(name, text)``, the longest text first.
    """

    texts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def over(cls, input: Any) -> Veil:
        """One for the secrets in an input that are texts of four characters or more."""
        return cls().also(dict(secrets_in(input)))

    def also(self, secrets: Mapping[str, Any]) -> Veil:
        """One for these, too."""
        texts = [(name, text) for name, text in secrets.items() if isinstance(text, str) and len(text) >= SHORTEST]
        return Veil(tuple(sorted({*texts, *self.texts}, key=lambda item: (-len(item[1]), item[0]))))

    def hide(self, text: str) -> str:
        """Typed JSON text with names in the place of secrets."""
        if not any(_spelt(secret) in text or json.dumps(secret)[1:-1] in text for _, secret in self.texts):
            return text
        return codec.write_json(self.hidden(codec.read_json(text)))

    def hidden(self, data: Any) -> Any:
        """The same of what ``codec.encode`` gives."""
        return _mapped(data, self._replaced) if self.texts else data

    def _replaced(self, text: str) -> str:
        for name, secret in self.texts:
            text = text.replace(secret, f"{MASK}{name}{MASK}")
        return text

    def show(self, text: str) -> str:
        """What `hide` was given, with the values that the secrets have now."""
        for name, secret in self.texts:
            text = text.replace(_spelt(f"{MASK}{name}{MASK}"), _spelt(secret))
        return text


NO_VEIL = Veil()


def _spelt(text: str) -> str:
    """A text as it stands inside JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _mapped(data: Any, function: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return function(data)
    if isinstance(data, list):
        return [_mapped(item, function) for item in data]
    if isinstance(data, dict):
        return {_mapped(key, function): _mapped(item, function) for key, item in data.items()}
    return data
