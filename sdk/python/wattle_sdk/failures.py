"""Refusals that reach the caller."""

from wit_world.imports import types

from .parameters import NONE, Parameters, told


class Failure(Exception):
    """Raise it to refuse a call, or in `describe` a release.

    `code` is a stable word for programs and `message` a sentence for people; `retryable` says whether the
    same call may succeed later, and `parameters` holds details for programs.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False, parameters: Parameters = NONE) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.parameters = dict(parameters)

    def told(self) -> types.Failure:
        """The failure as the contract has it."""
        return types.Failure(self.code, self.message, self.retryable, told(self.parameters))
