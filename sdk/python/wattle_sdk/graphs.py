"""The models of the release, run through wasi-nn."""

from collections.abc import Mapping

from componentize_py_types import Err
from wit_world.imports import errors, tensor
from wit_world.imports.graph import load_by_name

from .failures import Failure
from .tensors import Dtype, Tensor


class Graph:
    """A model of the release, ready to compute."""

    def __init__(self, alias: str) -> None:
        """The graph that the release calls `alias`; a failure `graph-not-found` if it has none."""
        try:
            self._context = load_by_name(alias).init_execution_context()
        except Err as error:
            raise _failure(error) from None

    def compute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the graph. Inputs go by name; outputs come in the graph's order."""
        lent = [(name, _lend(name, given)) for name, given in inputs.items()]
        try:
            outputs = self._context.compute(lent)
        except Err as error:
            raise _failure(error) from None
        return {name: _take(output) for name, output in outputs}


def graph(alias: str) -> Graph:
    """The graph that the release calls `alias`; a failure `graph-not-found` if it has none."""
    return Graph(alias)


def _lend(name: str, given: Tensor) -> tensor.Tensor:
    """wasi-nn has seven of the contract's fourteen types, under the same names."""
    try:
        ty = tensor.TensorType[given.dtype.name]
    except KeyError:
        raise Failure("graph-tensor-type", f"tensor '{name}': a graph takes no {given.dtype.name}") from None
    return tensor.Tensor(list(given.shape), ty, given.data)


def _take(output: tensor.Tensor) -> Tensor:
    with output:
        return Tensor(Dtype[output.ty().name], tuple(output.dimensions()), output.data())


def _failure(error: Err) -> Failure:
    """`graph-` and wasi-nn's own word, such as `graph-not-found`."""
    cause = error.value
    assert isinstance(cause, errors.Error)
    with cause:
        code = cause.code()
        word = code.name.lower().replace("_", "-")
        return Failure(f"graph-{word}", cause.data(), retryable=code == errors.ErrorCode.TIMEOUT)
