from __future__ import annotations

import io
from pathlib import Path

import pytest
import typer

from absurd.cli.arguments import read_json, read_pairs, read_params


def test_pairs_are_strings_or_json_in_the_order_given() -> None:
    found = read_pairs(["to=ann@example.com", "n:=2", "note=a=b:=c", "empty=", 'deep:={"z": 1, "a": [null]}'], "-P")
    assert found == {"to": "ann@example.com", "n": 2, "note": "a=b:=c", "empty": "", "deep": {"z": 1, "a": [None]}}
    assert list(found) == ["to", "n", "note", "empty", "deep"]


@pytest.mark.parametrize("pair", ["novalue", "=x", ":=1", "n:=", "n:=nope", "n:=NaN", "n:=-Infinity", "n:=" + "[" * 100_000])
def test_a_bad_pair_is_refused_with_the_option(pair: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        read_pairs([pair], "-P")
    assert len(str(caught.value)) < 400


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="given twice"):
        read_pairs(["a=1", "a:=2"], "-P")


def test_json_comes_from_text_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "params.json"
    path.write_text('{"b": 1, "a": 2}', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("[3]"))
    assert list(read_json(f"@{path}", "--params")) == ["b", "a"]
    assert read_json("-", "--params") == [3]
    assert read_json("null", "--params") is None


@pytest.mark.parametrize("text", ["@/nowhere/at/all.json", "@", "{", ""])
def test_json_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"cannot read|Invalid JSON"):
        read_json(text, "--params")


def test_single_params_go_over_the_whole() -> None:
    assert read_params(None, []) is None
    assert read_params("[1]", []) == [1]
    assert read_params('{"a": 1, "b": 2}', ["b=x", "c:=3"]) == {"a": 1, "b": "x", "c": 3}
    with pytest.raises(typer.BadParameter, match=r"object, but --params is '\[1\]'"):
        read_params("[1]", ["b=x"])
