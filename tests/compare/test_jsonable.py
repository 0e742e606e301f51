import json
import math
from dataclasses import dataclass

from converter.compare.jsonable import jsonable


@dataclass(frozen=True)
class Inner:
    value: float
    index: tuple[int, ...] | None


def test_everything_becomes_json():
    found = jsonable({1: (Inner(math.inf, (1, 2)), Inner(0.5, None)), "n": [math.nan, "x", True]})
    assert found == {
        "1": [{"value": None, "index": [1, 2]}, {"value": 0.5, "index": None}],
        "n": [None, "x", True],
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
