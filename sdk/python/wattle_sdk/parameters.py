"""Named JSON values beside the tensors: dicts here, JSON texts in the contract."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from wit_world.imports import types

Parameters = Mapping[str, Any]
NONE: Parameters = MappingProxyType({})


def given(parameters: list[types.Parameter]) -> dict[str, Any]:
    """What the host gives; it has checked that every value is JSON."""
    return {parameter.key: json.loads(parameter.value) for parameter in parameters}


def told(parameters: Parameters) -> list[types.Parameter]:
    """What the host is told. JSON has no NaN and no infinity: a ValueError."""
    return [types.Parameter(key, json.dumps(value, allow_nan=False)) for key, value in parameters.items()]
