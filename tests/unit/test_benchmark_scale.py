import importlib
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_committed_picture_is_what_the_committed_figures_give(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benches"))
    scale = importlib.import_module("scale")
    figures = json.loads((ROOT / "benches/results/scale-3.13.json").read_text(encoding="utf-8"))
    assert {row["question"] for row in figures["rows"]} == set(scale.POINTS)
    assert scale.draw(figures) == (ROOT / "docs/explanation/scale.svg").read_text(encoding="utf-8")
