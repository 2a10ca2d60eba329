"""How far an answer is trusted does not hang on chance."""

import os
import subprocess
import sys

FIGURES = """
from fieldstone.records import Hit, Passage
from fieldstone.search.confidence import figures

class Lexical:
    def rarity(self, words):
        return {word: 1 / (3 + sum(map(ord, word)) % 97) for word in words}

question = "which pilot boards every vessel longer than eighty metres before the harbour opens at six"
text = "a pilot boards every vessel longer than eighty metres, and the harbour opens at six"
hit = Hit(Passage("p", "d", text, 0, len(text)), 1.0, 1, "fused")
print(repr(figures(question, [hit], hit, text, Lexical()).coverage))
"""


def test_the_last_digit_is_the_same_in_every_process():
    """A sum over a set of words would differ in it, for their order differs."""
    said = {
        subprocess.run(
            [sys.executable, "-c", FIGURES],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(6)
    }
    assert len(said) == 1
