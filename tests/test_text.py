"""What others wrote is shown as text: nothing that a terminal obeys, never a megabyte."""

from __future__ import annotations

import pytest

from benchmark.text import LINE, LOG, NAME, base_name, name_parts, plain, plain_log


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("selena+diffence[n=10]", "selena+diffence[n=10]"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\rc\t\x00\x9b", r"a\nb\rc\t\x00\x9b"),
        ("\u202etxt.exe\u200b", r"\u202etxt.exe\u200b"),
        ("half \ud800", r"half \ud800"),
        ("Łukasz – ε 日本", "Łukasz – ε 日本"),
    ],
)
def test_what_a_terminal_obeys_is_written_out(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert plain(shown) == shown


@pytest.mark.parametrize("text", ["a" * 1_000_000, "\x1b" * 1_000_000, "\x1b" * (NAME - 1), "\ud800" * 1000])
def test_long_texts_are_cut_and_stay_apart(text: str) -> None:
    shown, other = plain(text, NAME), plain(text + "b" * NAME, NAME)
    assert len(shown) == len(other) == NAME
    assert shown.isprintable()
    assert shown != other
    assert plain(shown, NAME) == shown


def test_a_text_of_just_the_limit_is_whole() -> None:
    assert plain("a" * LINE) == "a" * LINE


def test_a_log_keeps_its_end_and_its_lines() -> None:
    assert plain_log("first\r\n\x1b[31mred\n") == "first\n\\x1b[31mred"
    log = plain_log("x\n" * 1_000_000 + "the end\x07")
    assert log.endswith("x\nthe end\\x07")
    assert len(log) <= LOG
    assert len(plain_log("\x1b" * 1_000_000)) <= LOG


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("loss", [("loss", [])]),
        ("a[b=1,c=x]", [("a", ["b=1", "c=x"])]),
        ("a[b=1e+20]+d", [("a", ["b=1e+20"]), ("d", [])]),
        ("a+b[c=2]+d", [("a", []), ("b", ["c=2"]), ("d", [])]),
        ("a[]", [("a", [])]),
        ("", [("", [])]),
    ],
)
def test_the_parts_of_a_name(name: str, found: list[tuple[str, list[str]]]) -> None:
    assert name_parts(name) == found
    assert base_name(name) == "+".join(id for id, _ in found)
