"""docs/program.md says what sw/layout.py says."""

from __future__ import annotations

import re
from pathlib import Path

from amacrine.sw.layout import CELL_FIELDS, COLUMN_FIELDS, COUNTER_FIELDS, IDENTITY, Parameters, Register
from amacrine.sw.program import ARRAYS, FORMAT_VERSION

PAGE = (Path(__file__).parents[1] / "docs" / "program.md").read_text()


def first_cells(section: str) -> list[str]:
    """What stands in back quotes in the first cells of a section's table rows."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return [name for row in re.findall(r"^\| (`[^|]*`) \|", text, re.M) for name in re.findall(r"`(\w+)`", row)]


def test_parameters_and_their_defaults():
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", PAGE.split("## Parameters")[1].split("\n## ")[0], re.M))
    assert told.pop("psum_depth") == "8192 / K, rounded up"
    assert told == {name: str(value) for name, value in Parameters().as_dict().items() if name != "psum_depth"}


def test_descriptor_fields_in_their_order():
    assert first_cells("Column descriptor") == list(COLUMN_FIELDS)
    assert first_cells("Cell descriptor") == list(CELL_FIELDS)


def test_registers():
    rows = re.findall(r"^\| `(0x[0-9A-F]{5})`[^|]*\| (\w+) \|", PAGE, re.M)
    assert {name: int(address, 16) for address, name in rows} == {
        register.name: register.value for register in Register}
    assert f"`0x{IDENTITY:X}`" in PAGE
    assert len(COUNTER_FIELDS) == 5 and "`events`, `words`, and cycles waited" in PAGE


def test_file():
    assert f"| `version` | `{FORMAT_VERSION}`" in PAGE
    told = dict(re.findall(r"^\| `(\w+)` \| (u?int\d+) \|", PAGE, re.M))
    assert told == {name: dtype.__name__ for name, dtype in ARRAYS.items()}
