"""A plugin has a name that can be typed, and settings that have defaults."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from seqbench import registry
from seqbench.errors import UsageError
from seqbench.registry import register


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {group: {} for group in registry._registered})


@pytest.mark.parametrize("name", ["null", "True", "nan", "a b", "a,b", "[x]", "", "9x", "é", 3, None])
def test_a_name_that_the_command_line_cannot_take_is_refused(name):
    with pytest.raises(UsageError, match="model .*Odd: name=.*: expected a word in the class"):
        register("model")(type("Odd", (), {"name": name}))


def test_a_class_without_a_name_of_its_own_is_refused():
    named = register("model")(dataclass(type("Named", (), {"name": "named"})))
    with pytest.raises(UsageError, match="model Heir: name=None"):
        register("model")(type("Heir", (named,), {}))
    assert registry.registered("model") == ["named"]


def test_a_class_whose_settings_would_not_count_is_refused():
    @dataclass
    class Parent:
        name: str = "parent"

    class Forgotten(Parent):
        name: str = "forgotten"

    with pytest.raises(UsageError, match="Forgotten: no dataclass: write @dataclass right below @register"):
        register("model")(Forgotten)
    assert register("probe")(Forgotten) is Forgotten


def test_a_setting_without_a_default_is_refused():
    @dataclass(kw_only=True)
    class Needy:
        must: int
        name: str = "needy"

    with pytest.raises(UsageError, match="Needy: 'must' has no default: give it one"):
        register("model")(Needy)
