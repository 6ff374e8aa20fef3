"""Write a Wattle pipeline in Python: typed tensors, graphs, settings and notes."""

from . import config, log
from .failures import Failure
from .graphs import Graph, graph
from .pipelines import Request, Response, Signature, Spec, pipeline
from .tensors import (
    BF16,
    BOOL,
    BYTES,
    FP16,
    FP32,
    FP64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Dtype,
    Tensor,
)

__all__ = [
    "BF16",
    "BOOL",
    "BYTES",
    "FP16",
    "FP32",
    "FP64",
    "I8",
    "I16",
    "I32",
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
    "Dtype",
    "Failure",
    "Graph",
    "Request",
    "Response",
    "Signature",
    "Spec",
    "Tensor",
    "config",
    "graph",
    "log",
    "pipeline",
]
