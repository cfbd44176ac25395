import json
import math

import pytest

from ci.bench.figures import Figure, Findings, shown


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [
        (0.9, True, True), (0.89, True, False), (1.1, False, False), (0.9, False, True), (math.nan, True, False),
        (math.nan, False, False),
    ],
)  # fmt: skip
def test_a_figure_is_met_on_its_own_side(value, at_least, met):
    assert Figure("share", value, 0.9, at_least).met is met


def test_a_figure_says_what_is_wanted():
    assert str(Figure("share", 0.5, 0.9)) == "share: 0.5 (wanted >= 0.9) SHORT"
    assert str(Figure("cycles", 2000.0, 2200.0, at_least=False)) == "cycles: 2,000 (wanted <= 2,200) ok"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "yes"), (12345, "12,345"), (12345.6, "12,346"), (0.123456, "0.1235"), ("x", "x")],
)
def test_cells(value, text):
    assert shown(value) == text


def test_findings_as_json(capsys):
    found = Findings("a", ("name", "cycles"), [("x", 3)], [Figure("f", 1.0, 2.0)], ["note"])
    found.print(as_json=True)
    read = json.loads(capsys.readouterr().out)
    assert read["rows"] == [{"name": "x", "cycles": 3}]
    assert read["figures"] == [{"what": "f", "value": 1.0, "wanted": 2.0, "at_least": True, "met": False}]
    assert read["notes"] == ["note"]
    assert not found.met


def test_json_has_no_nan():
    found = Findings("a", ("x",), [(math.nan,)], [Figure("f", math.nan, 2.0)])
    assert found.plain()["rows"] == [{"x": None}]
    assert found.plain()["figures"][0]["value"] is None


def test_findings_as_a_table(capsys):
    Findings("title", ("name", "cycles"), [("x", 3000)], [Figure("f", 3.0, 2.0)], ["[note]"]).print(as_json=False)
    text = capsys.readouterr().out
    assert "3,000" in text
    assert "f: 3 (wanted >= 2) ok" in text
    assert "[note]" in text
