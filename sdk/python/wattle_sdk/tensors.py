"""Tensors of the V2 protocol, without numpy: bytes in row-major order, read through typed memory views."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import batched
from math import isnan, prod
from struct import pack, unpack_from
from typing import Any

from wit_world.imports.types import Dtype

from .failures import Failure
from .parameters import NONE, Parameters

BOOL, BYTES = Dtype.BOOL, Dtype.BYTES
U8, U16, U32, U64 = Dtype.U8, Dtype.U16, Dtype.U32, Dtype.U64
I8, I16, I32, I64 = Dtype.I8, Dtype.I16, Dtype.I32, Dtype.I64
FP16, BF16, FP32, FP64 = Dtype.FP16, Dtype.BF16, Dtype.FP32, Dtype.FP64

# The letters of `struct`; WebAssembly is little-endian as the contract is. bfloat16 and byte strings have none.
_LETTERS: dict[Dtype, Any] = {
    BOOL: "?", U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", U64: "Q", I64: "q",
    FP16: "e", FP32: "f", FP64: "d",
}  # fmt: skip


@dataclass
class Tensor:
    """An array of `shape`, over bytes that are laid out as the contract has them; see `Tensor.of`."""

    dtype: Dtype
    shape: tuple[int, ...]
    data: bytes
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, dtype: Dtype, values: Iterable[Any], shape: Sequence[int] | None = None, parameters: Parameters = NONE
    ) -> Tensor:
        """A tensor of `values`: numbers, truth values, byte strings or texts.

        Without a `shape`, nested lists have their own. With one, `values` are flat and in row-major order; an
        `array` of the right type is the fastest. Values that do not fill the shape are a ValueError.
        """
        if shape is None:
            values = values if isinstance(values, (list, tuple)) else list(values)
            shape, values = _flat(values)
        elements = values if isinstance(values, Sequence) else list(values)
        if prod(shape) != len(elements):
            raise ValueError(f"{len(elements)} values do not fill the shape {list(shape)}")
        return cls(dtype, tuple(shape), _encoded(dtype, elements), dict(parameters))

    def values(self) -> Sequence[Any]:
        """The elements in row-major order: a typed view of the data that copies nothing, or for byte strings
        a list of `bytes`. Both can be indexed and sliced."""
        if self.dtype == BYTES:
            return _byte_strings(self.data)
        if self.dtype == BF16:
            wide = bytearray(2 * len(self.data))
            wide[2::4], wide[3::4] = self.data[0::2], self.data[1::2]
            return memoryview(wide).cast("f")
        return memoryview(self.data).cast(_LETTERS[self.dtype])

    def tolist(self) -> Any:
        """The elements in nested lists, as many deep as there are axes; of a scalar the element itself."""
        values = self.values()
        elements = values.tolist() if isinstance(values, memoryview) else list(values)
        for axis, size in reversed(list(enumerate(self.shape))):
            rows = prod(self.shape[:axis])
            elements = [list(row) for row in batched(elements, size)] if size else [[] for _ in range(rows)]
        return elements[0]

    def texts(self) -> list[str]:
        """The byte strings as UTF-8, or a failure `malformed-text` that names the element."""
        texts = []
        for index, element in enumerate(self.expect(BYTES).values()):
            try:
                texts.append(element.decode())
            except UnicodeDecodeError:
                raise Failure("malformed-text", f"text {index} is no UTF-8") from None
        return texts

    def expect(self, dtype: Dtype) -> Tensor:
        """The tensor itself if it is of `dtype`, or a failure `wrong-type`."""
        if self.dtype != dtype:
            raise Failure("wrong-type", f"{dtype.name} expected, {self.dtype.name} given")
        return self


def _flat(values: Sequence[Any]) -> tuple[list[int], Sequence[Any]]:
    """The shape of nested lists, and their elements in one list."""
    shape = [len(values)]
    while values and isinstance(values[0], (list, tuple)):
        shape.append(len(values[0]))
        if any(not isinstance(row, (list, tuple)) or len(row) != shape[-1] for row in values):
            raise ValueError("rows of the same length expected")
        values = [element for row in values for element in row]
    return shape, values


def _encoded(dtype: Dtype, elements: Sequence[Any]) -> bytes:
    if dtype == BYTES:
        strings = (element.encode() if isinstance(element, str) else bytes(element) for element in elements)
        return b"".join(pack("<I", len(string)) + string for string in strings)
    if dtype == BF16:
        return array("H", map(_bfloat16, elements)).tobytes()
    letter = _LETTERS[dtype]
    if letter in "?e":
        return pack(f"<{len(elements)}{letter}", *elements)
    return array(letter, elements).tobytes()


def _bfloat16(value: float) -> int:
    """The upper half of a single-precision float, rounded to the nearest, to even in the middle."""
    if isnan(value):
        return 0x7FC0
    (bits,) = unpack_from("<I", pack("<f", value))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def _byte_strings(data: bytes) -> list[bytes]:
    strings, place = [], 0
    while place < len(data):
        (length,) = unpack_from("<I", data, place)
        strings.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    return strings
