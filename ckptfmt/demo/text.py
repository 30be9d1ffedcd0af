"""The text that the demonstration trains on: an essay that ships with the project, and sentences from small grammars.

All of it was written for this project. The grammars are drawn from with a seeded generator, so the same seed gives
the same text on every machine.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

PARTS: Final = ("log", "questions", "steps", "letters")
"""What models are fine-tuned on, each in a form of its own, so that training on one shows in the loss."""

_SLOT = re.compile(r"\{(\w+)\}")

_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "who": ("the keeper", "the clerk", "the pilot", "the printer", "the engineer", "a visitor", "the night watch"),
    "thing": ("the map", "the sheet", "the ledger", "the model", "the drawer", "the envelope", "the lamp", "the disk"),
    "quality": ("heavy", "thin", "complete", "older than it looked", "of no use", "exact", "twice as large", "new"),
    "did": ("measured", "copied", "counted", "moved", "compared", "listed", "forgot", "returned"),
    "when": ("in the morning", "before noon", "at low tide", "after the storm", "on the third day", "every evening"),
    "place": ("in the office", "under the desk", "on the quay", "in the attic", "by the window", "in the shed"),
    "ship": ("Plover", "Heron", "Sandpiper", "Curlew", "Turnstone", "Dunlin", "Avocet", "Knot"),
    "cargo": ("timber", "salt", "paper", "lamp oil", "wool", "glass", "rope", "oats"),
    "wind": ("north", "north-east", "east", "south", "south-west", "west"),
    "state": ("calm", "choppy", "rough", "clear", "in fog", "falling", "rising"),
    "object": ("a shard", "a manifest", "a base", "an adapter", "a checkpoint", "a digest", "a frame", "a ref"),
    "reason": (
        "because it holds only what is new",
        "because its bytes say what it is",
        "because it names what it was made from",
        "because nothing in it is ever changed",
        "because it can be read again and compared",
    ),
    "use": ("kept apart", "named by its content", "read before it is trusted", "written only once", "checked twice"),
    "verb": ("Count", "Measure", "Write down", "Compare", "Seal", "Label", "Carry", "Check"),
    "goods": ("the sheets", "the small files", "the large files", "both halves", "the copies", "the names", "the lids"),
    "until": ("until they agree", "until none is left", "twice", "from first to last", "and say so", "one at a time"),
    "greeting": ("Dear colleague", "Dear keeper", "Dear friend", "To the office", "To whom it concerns"),
    "wish": ("send it back", "keep it for a week", "tell nobody", "look again", "bring the map", "burn the copy"),
    "close": ("Yours", "With regards", "In haste", "Until spring"),
}

_GRAMMARS: Final[Mapping[str, tuple[str, ...]]] = {
    "plain": (
        "{Who} {did} {thing} {when}.",
        "{Thing} was {quality}, and {who} {did} it {place}.",
        "{When} {who} found that {thing} {place} was {quality}.",
        "Nobody {did} {thing} until {who} came {place}.",
        "{Who} said that {thing} was {quality}; it was {quality2}.",
    ),
    "log": (
        "day {n} | {ship} in from the {wind} | {n2} tons of {cargo} | sea {state}",
        "day {n} | {ship} out at {n2} with {cargo} | wind {wind}, {state}",
        "day {n} | no ships | wind {wind} | sea {state}, glass {state2}",
    ),
    "questions": (
        "Q: Why is {object} {use}? A: {Object} is {use} {reason}.",
        "Q: May {object} be lost? A: No, {object} is {use} {reason}.",
        "Q: What did {who} do with {object}? A: {Who} {did} it {when}.",
    ),
    "steps": (
        "[{n}] {verb} {goods} {until}. [{n2}] {verb2} {goods2} {until2}.",
        "[{n}] {verb} {goods} {place}. If {thing} is {quality}, stop.",
    ),
    "letters": (
        "{greeting}, {thing} is {quality}. Please {wish}. {close}, {who}.",
        "{greeting}, {when} {who} {did} {thing}. I beg you: {wish}, and {wish2}. {close}, {who}.",
    ),
}


def essay() -> str:
    """The essay that ships with the project, about 5 KB."""
    return resources.files("ckptfmt.demo").joinpath("corpus.txt").read_text(encoding="utf-8")


def sentences(grammar: str, *, size_bytes: int, seed: int) -> str:
    """At least `size_bytes` of lines drawn from a grammar: "plain" or one of `PARTS`."""
    draw = random.Random(f"{grammar}/{seed}")  # noqa: S311
    lines: list[str] = []
    written = 0
    while written < size_bytes:
        line = _filled(draw.choice(_GRAMMARS[grammar]), draw)
        lines.append(line)
        written += len(line) + 1
    return "\n".join(lines) + "\n"


def base_text(*, seed: int) -> str:
    """What the base model is trained on, about 30 KB: the essay, plain sentences, and a little of every part."""
    parts = (sentences(part, size_bytes=3_000, seed=seed + 1000) for part in PARTS)
    return essay() + "\n" + sentences("plain", size_bytes=14_000, seed=seed) + "".join(parts)


def all_text(*, seed: int) -> str:
    """Everything, about 60 KB: what the tokenizer is trained on."""
    return base_text(seed=seed) + "".join(sentences(part, size_bytes=8_000, seed=seed) for part in PARTS)


def _filled(template: str, draw: random.Random) -> str:
    """`template` with a word in each slot: the same word where the slot is the same but for its first letter's case."""
    words: dict[str, str] = {}

    def fill(slot: re.Match[str]) -> str:
        name = slot.group(1)
        key = name.lower()
        if key not in words:
            kind = key.rstrip("2")
            words[key] = str(draw.randrange(1, 100)) if kind == "n" else draw.choice(_WORDS[kind])
        word = words[key]
        return word if name == key else word[0].upper() + word[1:]

    return _SLOT.sub(fill, template)
