import { Failure } from "./failure.js";
import * as log from "./log.js";
import { given, told } from "./parameters.js";
import { Tensor } from "./tensor.js";

// A pipeline has no network, and the engine's own `fetch` ends the call instead of throwing.
delete globalThis.fetch;

/** One call. The host has checked its inputs against the signature. */
export class Request {
  constructor({ id, inputs, outputs, parameters }) {
    this.id = id;
    this.inputs = Object.fromEntries(
      inputs.map(({ name, dtype, shape, data, parameters }) => [
        name,
        new Tensor(dtype, [...shape], data, given(parameters)),
      ]),
    );
    this.outputs = Object.fromEntries(outputs.map(({ name, parameters }) => [name, given(parameters)]));
    this.parameters = given(parameters);
  }

  /** The input called `name`, or a failure `missing-input` that names it. */
  input(name) {
    if (!Object.hasOwn(this.inputs, name)) {
      throw new Failure("missing-input", `there is no input '${name}'`);
    }
    return this.inputs[name];
  }

  /** Whether the caller wants the output `name`: by that name, or with all the others. */
  wants(name) {
    return Object.keys(this.outputs).length === 0 || Object.hasOwn(this.outputs, name);
  }
}

/** An answer with parameters; one without can be just the outputs by name. */
export class Response {
  constructor(outputs, parameters = {}) {
    this.outputs = outputs;
    this.parameters = parameters;
  }
}

/**
 * Makes a pipeline of two functions: `describe` is asked once for each release, `infer` answers one call. Export it
 * under the name of the contract's interface: `export const handler = pipeline({ describe, infer })`.
 */
export function pipeline({ describe, infer }) {
  return {
    describe: () => answer(async () => signature(await describe())),
    infer: (request) => answer(async () => response(await infer(new Request(request)))),
  };
}

/** Turns what is thrown into what the contract knows: an error with the failure as its payload. */
async function answer(work) {
  try {
    return await work();
  } catch (error) {
    // The engine throws this very string. It ends the call: the host knows which limit was met and says so.
    if (error === "out of memory") throw new Error(error);
    throw Object.assign(new Error(), { payload: failure(error).told() });
  }
}

function failure(error) {
  if (error instanceof Failure) return error;
  const stack = error instanceof Error ? `\n${error.stack}` : "";
  // The host ends a call that notes too much.
  log.error(`${error}${stack}`.slice(0, 8192));
  return new Failure("uncaught-exception", String(error));
}

function signature({ inputs = {}, outputs = {}, parameters }) {
  return { inputs: specs(inputs), outputs: specs(outputs), parameters: told(parameters) };
}

/** `null` is a free axis here, and `undefined` in the contract. */
const specs = (tensors) =>
  Object.entries(tensors).map(([name, { dtype, shape, optional = false, parameters }]) => ({
    name,
    dtype,
    shape: shape.map((size) => size ?? undefined),
    optional,
    parameters: told(parameters),
  }));

function response(answer) {
  const { outputs, parameters } = answer instanceof Response ? answer : new Response(answer);
  const tensors = Object.entries(outputs).map(([name, { dtype, shape, data, parameters }]) => ({
    name,
    dtype,
    shape: new Uint32Array(shape),
    data,
    parameters: told(parameters),
  }));
  return { outputs: tensors, parameters: told(parameters) };
}
