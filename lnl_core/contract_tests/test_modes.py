"""Every method with modes: each mode sets every field that has no default, unless the user does."""

from __future__ import annotations

import pytest

from lnl_core.config import ConfigError, ModeSettings, parse
from lnl_core.contract_tests import under_test
from lnl_core.purify import PURIFIERS
from lnl_core.train import TRAINERS

CONFIGS = {
    entry.name: entry.config
    for registry in (PURIFIERS, TRAINERS)
    for entry in under_test.entries(registry)
    if issubclass(entry.config, ModeSettings)
}


def test_the_methods_with_modes_are_found() -> None:
    assert {"dmlp", "emlc", "divide_mix", "flywheel"} <= CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_mode_that_is_none_is_one_complaint(name: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(CONFIGS[name], {"mode": "quick"}, name)
    assert str(found.value).startswith(f"{name}.mode = 'quick'")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_mode_sets_every_field_without_a_default(name: str) -> None:
    config = CONFIGS[name]
    required = {field for field, info in config.model_fields.items() if info.is_required()}
    assert required
    assert all(set(values) == required for values in config.modes.values())


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, config in CONFIGS.items() for mode in config.modes])
def test_a_mode_sets_what_the_user_leaves_out(name: str, mode: str) -> None:
    config, wanted = CONFIGS[name], CONFIGS[name].modes[mode]
    found = parse(config, {"mode": mode}, name)
    assert {field: getattr(found, field) for field in wanted} == wanted
    for other in config.modes.values():
        for field in sorted(field for field in wanted if other[field] != wanted[field])[-1:]:
            changed = parse(config, {"mode": mode, field: other[field]}, name)
            assert changed == found.model_copy(update={field: other[field]})
            assert changed != found
