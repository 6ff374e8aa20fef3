"""The release's own settings."""

from wit_world.imports import config

from .failures import Failure


def get(key: str) -> str | None:
    """The value of a setting, or None where the release has no such key."""
    return config.get(key)


def require(key: str) -> str:
    """The value of a setting, or a failure `missing-setting` that names it."""
    value = config.get(key)
    if value is None:
        raise Failure("missing-setting", f"the release has no setting '{key}'")
    return value
