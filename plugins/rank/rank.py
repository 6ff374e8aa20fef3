"""Ranks documents by how alike they are to a query, by MiniLM (all-MiniLM-L6-v2).

The release has the graph `minilm`: `input_ids`, `attention_mask` and `token_type_ids` i64 [n, tokens] to
`last_hidden_state` f32 [n, tokens, 384].
"""

from array import array
from collections.abc import Sequence
from itertools import chain, repeat
from math import sqrt, sumprod

from wattle_sdk import (
    BYTES,
    FP32,
    I64,
    U32,
    Failure,
    Graph,
    Request,
    Response,
    Signature,
    Spec,
    Tensor,
    graph,
    pipeline,
)
from wordpiece import Tokens, tokenize

# Numbers in a vector.
DIMENSIONS = 384
# Documents in a call.
MAX_DOCUMENTS = 128
# Tokens in one run of the graph, filling included: they bound the memory.
RUN_TOKENS = 2_048


def describe() -> Signature:
    return Signature(
        inputs={"query": Spec(BYTES, 1), "document": Spec(BYTES, None)},
        outputs={"order": Spec(U32, None), "score": Spec(FP32, None)},
    )


def infer(request: Request) -> Response:
    documents = request["document"].texts()
    if len(documents) > MAX_DOCUMENTS:
        raise Failure("too-many-documents", f"{len(documents)} documents; a call takes {MAX_DOCUMENTS}")
    [query] = request["query"].texts()
    tokens = [read(query, "the query"), *(read(text, f"document {i}") for i, text in enumerate(documents))]

    wanted, *others = vectors(graph("minilm"), tokens)
    scores = [sumprod(wanted, other) for other in others]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[: top(request)]
    return Response(
        {
            "order": Tensor.of(U32, order, [len(order)]),
            "score": Tensor.of(FP32, [scores[i] for i in order], [len(order)]),
        },
        {"truncated": sum(text.truncated for text in tokens)},
    )


def top(request: Request) -> int | None:
    """How many documents the caller wants, or None for all."""
    match request.parameters.get("top"):
        case None:
            return None
        case int(count) if count > 0 and count is not True:
            return count
        case other:
            raise Failure("wrong-parameter", f"'top' is a number from 1, not {other!r}")


def read(text: str, name: str) -> Tokens:
    """The tokens of a text, or a failure that names it."""
    tokens = tokenize(text)
    if tokens is None:
        raise Failure("empty-text", f"{name} has nothing to read in it")
    return tokens


def vectors(minilm: Graph, texts: list[Tokens]) -> list[list[float]]:
    """The vector of each text. Those of like length run together, so that little is filled up."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
    found: dict[int, list[float]] = {}
    while order:
        count = len(order)
        while count > 1 and count * len(texts[order[count - 1]].ids) > RUN_TOKENS:
            count -= 1
        batch, order = order[:count], order[count:]
        found.update(zip(batch, embed(minilm, [texts[i].ids for i in batch]), strict=True))
    return [found[i] for i in range(len(texts))]


def embed(minilm: Graph, batch: list[list[int]]) -> list[list[float]]:
    """Runs the graph over texts, filled up to the longest."""
    length = max(map(len, batch))
    shape = (len(batch), length)

    def filled(rows: list[list[int]]) -> Tensor:
        flat = chain.from_iterable(chain(row, repeat(0, length - len(row))) for row in rows)
        return Tensor.of(I64, array("q", flat), shape)

    answer = minilm.compute(
        {
            "input_ids": filled(batch),
            "attention_mask": filled([[1] * len(ids) for ids in batch]),
            "token_type_ids": filled([[] for _ in batch]),
        }
    )
    states = answer["last_hidden_state"].expect(FP32).values()
    row = length * DIMENSIONS
    return [pooled(states[i * row : i * row + len(ids) * DIMENSIONS]) for i, ids in enumerate(batch)]


def pooled(states: Sequence[float]) -> list[float]:
    """The direction of the mean over a text's tokens: a vector of length 1."""
    total = [sum(states[place::DIMENSIONS]) for place in range(DIMENSIONS)]
    length = sqrt(sumprod(total, total))
    return [value / length for value in total]


Handler = pipeline(describe, infer)
