/** Write a Wattle pipeline in JavaScript: typed tensors, graphs, settings and notes. */

export * as config from "./config.js";
export * as log from "./log.js";
export { Failure } from "./failure.js";
export { Graph, graph } from "./graph.js";
export { Request, Response, pipeline } from "./pipeline.js";
export { Tensor } from "./tensor.js";
