"""WordPiece (Schuster and Nakajima 2012) as BERT's uncased models have it."""

import string
import sys
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category, normalize

# What the model was taught to see of a text, its two marks included.
MAX_TOKENS = 256
# What is read of a text at all: more than MAX_TOKENS words of prose.
MAX_CHARACTERS = 32_768
# Longer words are unknown.
MAX_WORD = 100
UNKNOWN, BEGIN, END = 100, 101, 102

# Read once, while the component is built: it is a snapshot of an interpreter that has this table.
_FILE = next(file for folder in sys.path if (file := Path(folder, "minilm.vocab.txt")).exists())
_NUMBERS = {token: number for number, token in enumerate(_FILE.read_text("utf-8").splitlines())}

# Chinese characters, which stand for words each: the blocks of CJK ideographs that BERT names.
_IDEOGRAPHS = (
    range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xF900, 0xFB00), range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740), range(0x2B740, 0x2B820), range(0x2B820, 0x2CEB0), range(0x2F800, 0x2FA20),
)  # fmt: skip


@dataclass
class Tokens:
    """A text as the graph takes it."""

    ids: list[int]
    truncated: bool


def tokenize(text: str) -> Tokens | None:
    """Reads as much of a text as the model can see. None if there is nothing in it."""
    ids = [BEGIN]
    for word in _words(text[:MAX_CHARACTERS]):
        ids += _split(word)
        if len(ids) >= MAX_TOKENS:
            break
    truncated = len(ids) >= MAX_TOKENS or len(text) > MAX_CHARACTERS
    ids = [*ids[: MAX_TOKENS - 1], END]
    return Tokens(ids, truncated) if len(ids) > 2 else None


def _words(text: str) -> list[str]:
    """Lower case without accents, split at spaces; punctuation and ideographs stand alone."""
    kept = "".join(map(_kept, text))
    plain = (mark for mark in normalize("NFD", kept) if category(mark) != "Mn")
    return "".join(map(_lower, plain)).split()


def _kept(character: str) -> str:
    """Controls are dropped and every space is the same."""
    if character in "\t\n\r":
        return " "
    if character == "\ufffd" or category(character)[0] == "C":
        return ""
    return " " if character.isspace() else character


def _lower(character: str) -> str:
    alone = _is_punctuation(character) or any(ord(character) in block for block in _IDEOGRAPHS)
    return f" {character} " if alone else character.lower()


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or category(character)[0] == "P"


def _split(word: str) -> list[int]:
    """The longest known beginning, then the longest known continuation, and so on to the word's end; a word that
    has no such parts is unknown as a whole."""
    if len(word) > MAX_WORD:
        return [UNKNOWN]
    ids, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            number = _NUMBERS.get(prefix + word[start:end])
            if number is not None:
                break
        else:
            return [UNKNOWN]
        ids.append(number)
        start = end
    return ids
