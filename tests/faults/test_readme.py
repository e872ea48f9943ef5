"""The table of faults names tests that exist, all 24 of them."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROW = re.compile(r"\| (\d+) \| [^|]+ \| ([^|]+) \|")
NAMED = re.compile(r"`([\w/.]*)(\[\w+\])?(?:::(\w+))?`")


def test_every_case_has_tests_that_exist() -> None:
    rows = ROW.findall((HERE / "README.md").read_text())
    assert [int(number) for number, _ in rows] == list(range(1, 25))
    missing = []
    for number, cell in rows:
        named = [match for match in NAMED.findall(cell) if not match[0].startswith("make")]
        file = HERE / "README.md"
        for path, _, name in named:
            if path:
                tried = [HERE / path, ROOT / path, file.parent / path]
                file = next((each for each in tried if each.exists()), Path("none"))
            if not file.exists() or (name and f"def {name}(" not in file.read_text()):
                missing.append((number, path, name))
        if not named:
            assert "make soak" in cell, number
    assert missing == []
