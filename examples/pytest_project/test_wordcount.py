"""Tests that say what they may cost.

Run:  pytest examples/pytest_project --rprof-top 3
"""

from __future__ import annotations

import pytest
from wordcount import count_words, count_words_slowly

TEXT = "the quick brown fox jumps over the lazy dog " * 400


@pytest.mark.rprof(max_cpu="500ms")
def test_counting_is_cheap():
    assert count_words(TEXT)["the"] == 800


@pytest.mark.xfail(reason="shows what a test over its budget looks like", strict=True)
@pytest.mark.rprof(max_share={"wordcount.count_words_slowly": 0.5})
def test_counting_slowly_goes_over_its_budget():
    for _ in range(5):
        assert count_words_slowly(TEXT)["the"] == 800


def test_what_the_fixture_sees(rprof):
    for _ in range(5):
        count_words_slowly(TEXT)
    heaviest = rprof.stop().top(1, by="cpu")[0]
    assert heaviest.name == "wordcount.count_words_slowly"
