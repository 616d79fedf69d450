"""Regular expressions of chance, in each function that takes them: alike on both sides."""

from __future__ import annotations

import os
from random import Random
from typing import Any

from conformance.test_statements import answer

ATOMS = ("a", "b", ".", "c", "[ab]", "[^a]", r"\w", r"\d", "1", "é", "[[:alpha:]]", r"\s", " ")
QUANTIFIERS = ("", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,1}", "{2,}")
CONSTRAINTS = (r"\M", r"\y", "(?=a)", "(?!b)")
QUERIES = (
    "select %(text)s::text ~ %(pattern)s::text, %(text)s::text ~* %(pattern)s::text",
    "select regexp_match(%(text)s::text, %(pattern)s::text)",
    "select regexp_replace(%(text)s::text, %(pattern)s::text, %(new)s, 'g')",
    "select substring(%(text)s::text from %(pattern)s::text)",
    "select regexp_split_to_array(%(text)s::text, %(pattern)s::text)",
    "select x from regexp_matches(%(text)s::text, %(pattern)s::text, 'g') as x",
)


def pattern(chance: Random, depth: int = 2) -> str:
    """A pattern with groups in groups, to a depth."""
    pieces: list[str] = []
    for _ in range(chance.randint(1, 3)):
        kind = chance.randrange(len(ATOMS) + 2) if depth else 0
        if kind > len(ATOMS) - 1:
            start = "(" if kind == len(ATOMS) else "(?:"
            pieces.append(f"{start}{pattern(chance, depth - 1)})")
        else:
            pieces.append(chance.choice(ATOMS))
        pieces.append(chance.choice(QUANTIFIERS))
    found = "".join(pieces)
    if chance.random() < 0.15:
        found += "|" + pattern(chance, 0)
    if chance.random() < 0.1:
        found = "^" + found
    if chance.random() < 0.1:
        found += "$"
    return found + (chance.choice(CONSTRAINTS) if chance.random() < 0.05 else "")


def test_every_pattern_matches_alike(sides: tuple[Any, Any]) -> None:
    """The leftmost longest; what Python cannot tell as Postgres does is refused."""
    count = int(os.environ.get("CONFORMANCE_PATTERNS", "300"))
    differences: list[str] = []
    refused = 0
    for seed in range(count):
        chance = Random(seed)
        given = {
            "pattern": pattern(chance),
            "text": "".join(chance.choices("aabbc1 é", k=chance.randint(0, 7))),
            "new": r"<\1\&>",
        }
        for text in QUERIES:
            left, right = (answer(connection, text, given) for connection in sides)
            if right[2] == "0A000":
                refused += 1
            elif left != right:
                differences.append(f"{text} {given}\n  postgres {left}\n  memory   {right}")
    assert not differences, f"{len(differences)} of {count}\n" + "\n".join(differences[:20])
    assert refused < count * len(QUERIES) / 10
