"""Settings that follow from the data unless they are set, and what is said of values that cannot be."""

import pytest

from lnl_core.config import ConfigError, Settings, parse
from lnl_core.training.method_settings import AutoCount, AutoRate, AutoShare, AutoWeight


class Example(Settings):
    share: AutoShare = "auto"
    rate: AutoRate = "auto"
    weight: AutoWeight = "auto"
    count: AutoCount = "auto"


@pytest.mark.parametrize("given", [{"share": 0}, {"share": 1}, {"rate": 0.99}, {"weight": 150}, {"count": 5}])
def test_what_is_set_stays(given):
    [(name, value)] = given.items()
    assert getattr(parse(Example, given, "example"), name) == value
    assert getattr(parse(Example, {}, "example"), name) == "auto"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"share": 1.1}, r"example\.share = 1\.1: Value error, must be 'auto' or in 0\.\.1$"),
        ({"rate": 1}, r"example\.rate = 1: .* its end left out$"),
        ({"weight": -1}, r"example\.weight = -1: .*at least 0$"),
        ({"weight": "many"}, r"example\.weight = 'many': Value error, must be 'auto' or a number at least 0$"),
        ({"count": 2.5}, r"example\.count = 2\.5: .*a number at least 1$"),
    ],
)
def test_one_line_says_what_is_allowed(given, message):
    with pytest.raises(ConfigError, match=message):
        parse(Example, given, "example")
