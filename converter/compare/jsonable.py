"""Results as JSON can hold them."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any


def jsonable(value: Any) -> Any:
    """Dataclasses become dictionaries, tuples lists, and floats that are not finite None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
