"""Text of data in a configuration comes back as it was, and never runs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from monai_diffscore.data.literals import literal

ODD = ["$ income", "@risk", "% fat", "# visits"]
ODD += ["$__import__('os').abort()", "@#x", "a@::b", 'it\'s \\x24 "5"\n', "a#b"]
TEXT = st.text(st.sampled_from("$@%#:_'\"\\n x24{}\nµ"), max_size=12)


def read(value):
    """What MONAI makes of a value that went through a file."""
    parser = ConfigParser(json.loads(json.dumps({"here": {"value": literal(value)}, "risk": "run", "x": "run"})))
    return parser.get_parsed_content("here#value")


@pytest.mark.parametrize("text", ODD)
def test_odd_names_come_back(text):
    assert read(text) == text
    assert read([text, 3, None]) == [text, 3, None]
    assert read({text: [text], "plain": 1.5}) == {text: [text], "plain": 1.5}


@settings(max_examples=300, deadline=None)
@given(st.one_of(TEXT, st.lists(TEXT, max_size=3), st.dictionaries(TEXT, TEXT, max_size=3)))
def test_any_text_comes_back(value):
    assert read(value) == value


def test_a_dictionary_of_data_makes_no_object():
    assert read({"_target_": "builtins.exit"}) == {"_target_": "builtins.exit"}


def test_harmless_text_stays_the_same():
    for value in ("age", "/data/a b.csv", ["I", "II"], {"mean": 3.0}, None, True, 5, "5 %", "a$b"):
        assert literal(value) == value
