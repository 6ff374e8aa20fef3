"""What a pipeline takes and gives, and how it answers."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from componentize_py_types import Err
from wit_world.imports import types

from . import log
from .failures import Failure
from .parameters import NONE, Parameters, given, told
from .tensors import Dtype, Tensor

# The most of a traceback that is noted: the host ends a call that writes too much.
_NOTE_CHARACTERS = 8_192


class Spec:
    """What a tensor must look like, such as `Spec(FP32, None, 100)`; None is a free axis."""

    def __init__(self, dtype: Dtype, *shape: int | None, optional: bool = False, parameters: Parameters = NONE) -> None:
        self.dtype = dtype
        self.shape = shape
        self.optional = optional
        self.parameters = dict(parameters)

    def told(self, name: str) -> types.TensorSpec:
        """The specification as the contract has it."""
        return types.TensorSpec(name, self.dtype, list(self.shape), self.optional, told(self.parameters))


@dataclass
class Signature:
    """What a pipeline takes and gives, by name."""

    inputs: Mapping[str, Spec]
    outputs: Mapping[str, Spec]
    parameters: Parameters = field(default_factory=dict)

    def told(self) -> types.Signature:
        """The signature as the contract has it."""
        inputs = [spec.told(name) for name, spec in self.inputs.items()]
        outputs = [spec.told(name) for name, spec in self.outputs.items()]
        return types.Signature(inputs, outputs, told(self.parameters))


@dataclass
class Request:
    """One call. The host has checked its inputs against the signature."""

    id: str
    inputs: dict[str, Tensor]
    outputs: dict[str, dict[str, Any]]
    """The outputs that the caller wants, with their parameters; empty means all."""
    parameters: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        """The input called `name`, or a failure `missing-input` that names it."""
        try:
            return self.inputs[name]
        except KeyError:
            raise Failure("missing-input", f"there is no input '{name}'") from None

    def wants(self, name: str) -> bool:
        """Whether the caller wants the output `name`: by that name, or with all the others."""
        return not self.outputs or name in self.outputs

    @staticmethod
    def given(request: types.Request) -> Request:
        """The contract's request."""
        inputs = {
            tensor.name: Tensor(tensor.dtype, tuple(tensor.shape), tensor.data, given(tensor.parameters))
            for tensor in request.inputs
        }
        outputs = {output.name: given(output.parameters) for output in request.outputs}
        return Request(request.id, inputs, outputs, given(request.parameters))


@dataclass
class Response:
    """An answer with parameters; one without can be just the outputs by name."""

    outputs: Mapping[str, Tensor]
    parameters: Parameters = field(default_factory=dict)

    def told(self) -> types.Response:
        """The answer as the contract has it."""
        outputs = [
            types.Tensor(name, tensor.dtype, list(tensor.shape), tensor.data, told(tensor.parameters))
            for name, tensor in self.outputs.items()
        ]
        return types.Response(outputs, told(self.parameters))


Describe = Callable[[], Signature]
Infer = Callable[[Request], Response | Mapping[str, Tensor]]


def pipeline(describe: Describe, infer: Infer) -> type:
    """Makes a pipeline of two functions: `describe` is asked once for each release, `infer` answers one call.

    Bind it to the name under which the component exports it: `Handler = pipeline(describe, infer)`.
    """

    class Handler:
        def describe(self) -> types.Signature:
            return _answer(lambda: describe().told())

        def infer(self, req: types.Request) -> types.Response:
            return _answer(lambda: _response(infer(Request.given(req))).told())

    # The component is a snapshot of this interpreter. Collecting garbage would visit, and so copy, all of it.
    gc.collect()
    gc.freeze()
    return Handler


def _response(answer: Response | Mapping[str, Tensor]) -> Response:
    return answer if isinstance(answer, Response) else Response(answer)


def _answer[T](answer: Callable[[], T]) -> T:
    """Turns what is raised into what the contract knows."""
    try:
        return answer()
    except Failure as failure:
        raise Err(failure.told()) from None
    except MemoryError:
        # It ends the call: the host knows which limit was met and says so.
        raise
    except Exception as error:
        log.error("".join(traceback.format_exception(error))[-_NOTE_CHARACTERS:])
        message = f"{type(error).__name__}: {error}"
        raise Err(types.Failure("uncaught-exception", message, False, [])) from None
