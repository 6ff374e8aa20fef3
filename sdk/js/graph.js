import { loadByName } from "wasi:nn/graph@0.2.0-rc-2024-10-28";
import { Tensor as NnTensor } from "wasi:nn/tensor@0.2.0-rc-2024-10-28";

import { Failure } from "./failure.js";
import { Tensor } from "./tensor.js";

/** wasi-nn has seven of the contract's fourteen types. */
const LENT = new Set(["fp16", "fp32", "fp64", "bf16", "u8", "i32", "i64"]);

/** A model of the release, ready to compute. */
export class Graph {
  #context;

  constructor(alias) {
    this.#context = failing(() => loadByName(alias).initExecutionContext());
  }

  /** Runs the graph. Inputs and outputs go by name. */
  compute(inputs) {
    const lent = Object.entries(inputs).map(([name, tensor]) => [name, lend(name, tensor)]);
    const outputs = failing(() => this.#context.compute(lent));
    return Object.fromEntries(outputs.map(([name, tensor]) => [name, take(tensor)]));
  }
}

/** The graph that the release calls `alias`; a failure `graph-not-found` if it has none. */
export const graph = (alias) => new Graph(alias);

function lend(name, { dtype, shape, data }) {
  if (!LENT.has(dtype)) {
    throw new Failure("graph-tensor-type", `tensor '${name}': a graph takes no ${dtype}`);
  }
  return new NnTensor(new Uint32Array(shape), dtype.toUpperCase(), data);
}

function take(tensor) {
  const taken = new Tensor(tensor.ty().toLowerCase(), [...tensor.dimensions()], tensor.data());
  // What is computed counts against a limit until it is given back, and the collector may come late.
  tensor[Symbol.dispose]();
  return taken;
}

/** What wasi-nn throws becomes `graph-` and its own word, such as `graph-not-found`. */
function failing(work) {
  try {
    return work();
  } catch (error) {
    if (!error.payload) throw error;
    const code = error.payload.code();
    throw new Failure(`graph-${code}`, error.payload.data(), { retryable: code === "timeout" });
  }
}
