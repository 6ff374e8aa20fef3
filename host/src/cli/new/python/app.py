"""Doubles numbers: the place to begin."""

from wattle_sdk import FP32, Request, Signature, Spec, Tensor, pipeline


def describe() -> Signature:
    return Signature(inputs={"x": Spec(FP32, None)}, outputs={"y": Spec(FP32, None)})


def infer(request: Request) -> dict[str, Tensor]:
    x = request["x"].expect(FP32)
    return {"y": Tensor.of(FP32, [2 * value for value in x.values()], x.shape)}


Handler = pipeline(describe, infer)
