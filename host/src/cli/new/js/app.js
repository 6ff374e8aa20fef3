/** Doubles numbers: the place to begin. */

import { Tensor, pipeline } from "./wattle-sdk/js/index.js";

export const handler = pipeline({
  describe: () => ({
    inputs: { x: { dtype: "fp32", shape: [null] } },
    outputs: { y: { dtype: "fp32", shape: [null] } },
  }),

  infer(request) {
    const x = request.input("x").expect("fp32");
    return { y: Tensor.of("fp32", x.values().map((value) => 2 * value), x.shape) };
  },
});
