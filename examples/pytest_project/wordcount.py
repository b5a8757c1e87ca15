"""Counts words, once well and once badly."""

from __future__ import annotations

from collections import Counter


def count_words(text: str) -> Counter:
    return Counter(text.lower().split())


def count_words_slowly(text: str) -> dict[str, int]:
    words = text.lower().split()
    counts = {}
    for word in words:
        counts[word] = words.count(word)
    return counts
