"""The README's Python runs as it stands, and its files exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PLACEHOLDER = r"@[A-Z_]+@|^(?:RESULTS|REAL|PARTS|DAVIS|STAGES)$"


def test_python_blocks_run(monkeypatch):
    if not (ROOT / "modeling_findtrack/small/model.safetensors").exists():
        pytest.skip("the shipped checkpoint is not in this checkout")
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.S):
        exec(block, names)
    assert names["track"].masks[12].shape == (320, 480)
    assert len(names["track"].presence) == 56


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    local = [link for link in links if not link.startswith("http")]
    assert local and all((ROOT / link).exists() for link in local)


def test_no_placeholder_is_left():
    cards = ("model_card.md", "modeling_findtrack/tiny/README.md")
    for name in ("README.md", *cards, "training/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.findall(PLACEHOLDER, text, flags=re.M), name
