"""The words of a command line, told apart: the runner's options, the target, and what is the flow's own.

The same rules as those by which cyclopts reads the options, for those who cannot wait for it to be imported.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Words:
    """A command line, told apart.

    Args:
        words: the command and what follows it.
        flags: the options that take no value.

    Attributes:
        options: what stands before the target, by name without dashes in front: the values, in order; a flag's is
            "true" unless it has one. What has no value is None.
        target: where the target is among the words; past the end if there is none.
        fenced: whether ``--`` stands before it.
        own: what follows the target.
    """

    def __init__(self, words: Sequence[str], flags: Collection[str]) -> None:
        self.options: dict[str, list[str | None]] = {}
        position = 1
        while position < len(words) and words[position].startswith("-") and words[position] != "--":
            name, equals, value = words[position].partition("=")
            position += 1
            if equals:
                given: str | None = value
            elif name in flags:
                given = "true"
            else:
                given = words[position] if position < len(words) else None
                position += 1
            self.options.setdefault(name.removeprefix("--").replace("_", "-"), []).append(given)
        self.fenced = position < len(words) and words[position] == "--"
        self.target = position + self.fenced
        self.own = list(words[self.target + 1 :])
