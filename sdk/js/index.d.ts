/** Write a Wattle pipeline in JavaScript: typed tensors, graphs, settings and notes. */

/** The type of a tensor's elements, as V2 has them. */
export type Dtype =
  | "bool"
  | "u8"
  | "i8"
  | "u16"
  | "i16"
  | "u32"
  | "i32"
  | "u64"
  | "i64"
  | "fp16"
  | "bf16"
  | "fp32"
  | "fp64"
  | "bytes";

/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Named JSON values beside the tensors. */
export type Parameters = Record<string, Json>;

/** What reading a tensor gives, by its type. */
export interface Values {
  bool: boolean[];
  u8: Uint8Array;
  i8: Int8Array;
  u16: Uint16Array;
  i16: Int16Array;
  u32: Uint32Array;
  i32: Int32Array;
  u64: BigUint64Array;
  i64: BigInt64Array;
  fp16: Float16Array;
  bf16: Float32Array;
  fp32: Float32Array;
  fp64: Float64Array;
  bytes: Uint8Array[];
}

/** An array of `shape`. */
export class Tensor<D extends Dtype = Dtype> {
  readonly dtype: D;
  readonly shape: number[];
  /** Row-major and little-endian; `bytes` are a `u32` length each, then that many bytes. */
  readonly data: Uint8Array;
  readonly parameters: Parameters;

  /** A tensor over bytes that are already laid out. */
  constructor(dtype: D, shape: number[], data: Uint8Array, parameters?: Parameters);

  /**
   * A tensor of `values`: numbers, truth values, byte strings or texts. Without a `shape`, nested arrays have their
   * own. With one, `values` are flat and in row-major order; a typed array is the fastest.
   *
   * @throws RangeError where the values do not fill the shape
   */
  static of<D extends Dtype>(
    dtype: D,
    values: readonly unknown[] | Values[D],
    shape?: number[],
    parameters?: Parameters,
  ): Tensor<D>;

  /** The elements in row-major order. 64-bit integers are `bigint`s. */
  values(): Values[D];

  /** The elements in nested arrays, as many deep as there are axes; of a scalar the element itself. */
  toArray(): any;

  /** The byte strings as UTF-8, or a failure `malformed-text` that names the element. */
  texts(): string[];

  /** The tensor itself if it is of `dtype`, or a failure `wrong-type`. */
  expect<E extends Dtype>(dtype: E): Tensor<E>;
}

/** Throw it to refuse a call, or in `describe` a release. */
export class Failure extends Error {
  /** A stable word for programs. */
  readonly code: string;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  /** Details for programs. */
  readonly parameters: Parameters;

  constructor(code: string, message: string, options?: { retryable?: boolean; parameters?: Parameters });
}

/** A model of the release, ready to compute. */
export class Graph {
  /** The graph that the release calls `alias`; a failure `graph-not-found` if it has none. */
  constructor(alias: string);

  /** Runs the graph. Inputs and outputs go by name. */
  compute(inputs: Record<string, Tensor>): Record<string, Tensor>;
}

/** The graph that the release calls `alias`; a failure `graph-not-found` if it has none. */
export function graph(alias: string): Graph;

/** What a tensor must look like. */
export interface Spec {
  dtype: Dtype;
  /** `null` is a free axis. */
  shape: (number | null)[];
  /** Of an input: whether a call may leave it out. Of an output: whether an answer may lack it. */
  optional?: boolean;
  parameters?: Parameters;
}

/** What a pipeline takes and gives, by name. */
export interface Signature {
  inputs?: Record<string, Spec>;
  outputs?: Record<string, Spec>;
  parameters?: Parameters;
}

/** One call. The host has checked its inputs against the signature. */
export class Request {
  /** The caller's own id, or one that the host made. */
  readonly id: string;
  readonly inputs: Record<string, Tensor>;
  /** The outputs that the caller wants, with their parameters; empty means all. */
  readonly outputs: Record<string, Parameters>;
  readonly parameters: Parameters;

  private constructor();

  /** The input called `name`, or a failure `missing-input` that names it. */
  input(name: string): Tensor;

  /** Whether the caller wants the output `name`: by that name, or with all the others. */
  wants(name: string): boolean;
}

/** An answer with parameters; one without can be just the outputs by name. */
export class Response {
  readonly outputs: Record<string, Tensor>;
  readonly parameters: Parameters;

  constructor(outputs: Record<string, Tensor>, parameters?: Parameters);
}

/** The two functions of a pipeline; either may be async. */
export interface Pipeline {
  /** Asked once for each release, with its settings and graphs at hand. */
  describe(): Signature | Promise<Signature>;
  /** Answers one call. Each runs in a fresh instance: nothing is kept between calls. */
  infer(request: Request): PipelineAnswer | Promise<PipelineAnswer>;
}

export type PipelineAnswer = Response | Record<string, Tensor>;

/** Makes a pipeline; export it as `handler`. */
export function pipeline(pipeline: Pipeline): object;

/** The release's own settings. */
export namespace config {
  /** The value of a setting, or `undefined` where the release has no such key. */
  function get(key: string): string | undefined;
  /** The value of a setting, or a failure `missing-setting` that names it. */
  function require(key: string): string;
}

/** Notes to whoever runs the host. A call that writes more than its limit ends there. */
export namespace log {
  function debug(message: string): void;
  function info(message: string): void;
  function warn(message: string): void;
  function error(message: string): void;
}
