import { Failure } from "./failure.js";

/** The typed array that holds the values of each numeric type; WebAssembly is little-endian as the contract is. */
const ARRAYS = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
  fp16: Float16Array,
  fp32: Float32Array,
  fp64: Float64Array,
};

/** An array of `shape`, over bytes that are laid out as the contract has them; see `Tensor.of`. */
export class Tensor {
  constructor(dtype, shape, data, parameters = {}) {
    this.dtype = dtype;
    this.shape = shape;
    this.data = data;
    this.parameters = parameters;
  }

  /**
   * A tensor of `values`: numbers, truth values, byte strings or texts. Without a `shape`, nested arrays have their
   * own. With one, `values` are flat and in row-major order; a typed array is the fastest.
   */
  static of(dtype, values, shape, parameters) {
    const elements = shape ? values : values.flat(Infinity);
    const whole = shape ?? shapeOf(values);
    if (elements.length !== count(whole)) {
      throw new RangeError(`${elements.length} values do not fill the shape [${whole}]`);
    }
    return new Tensor(dtype, whole, encoded(dtype, elements), parameters);
  }

  /**
   * The elements in row-major order: in a typed array, as an array of booleans for `bool`, or of `Uint8Array`s for
   * `bytes`. 64-bit integers are `bigint`s.
   */
  values() {
    const { dtype, data } = this;
    if (dtype === "bytes") return byteStrings(data);
    if (dtype === "bool") return Array.from(data, Boolean);
    if (dtype === "bf16") return widened(data);
    // A typed array must begin at a multiple of its element's size.
    const aligned = data.byteOffset % ARRAYS[dtype].BYTES_PER_ELEMENT === 0 ? data : data.slice();
    return new ARRAYS[dtype](aligned.buffer, aligned.byteOffset, data.length / ARRAYS[dtype].BYTES_PER_ELEMENT);
  }

  /** The elements in nested arrays, as many deep as there are axes; of a scalar the element itself. */
  toArray() {
    let elements = Array.from(this.values());
    for (let axis = this.shape.length - 1; axis >= 0; axis--) {
      const [rows, size] = [count(this.shape.slice(0, axis)), this.shape[axis]];
      elements = Array.from({ length: rows }, (_, row) => elements.slice(row * size, (row + 1) * size));
    }
    return elements[0];
  }

  /** The byte strings as UTF-8, or a failure `malformed-text` that names the element. */
  texts() {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return this.expect("bytes")
      .values()
      .map((element, index) => {
        try {
          return decoder.decode(element);
        } catch {
          throw new Failure("malformed-text", `text ${index} is no UTF-8`);
        }
      });
  }

  /** The tensor itself if it is of `dtype`, or a failure `wrong-type`. */
  expect(dtype) {
    if (this.dtype !== dtype) {
      throw new Failure("wrong-type", `${dtype} expected, ${this.dtype} given`);
    }
    return this;
  }
}

const count = (shape) => shape.reduce((count, size) => count * size, 1);

/** The shape of nested arrays; that all rows are as long as the first shows in the count. */
function shapeOf(values) {
  const nested = Array.isArray(values) || ArrayBuffer.isView(values);
  return nested ? [values.length, ...(Array.isArray(values[0]) ? shapeOf(values[0]) : [])] : [];
}

function encoded(dtype, elements) {
  if (dtype === "bytes") return joined(elements);
  if (dtype === "bool") return Uint8Array.from(elements, (element) => (element ? 1 : 0));
  if (dtype === "bf16") return narrowed(elements);
  const array = elements instanceof ARRAYS[dtype] ? elements : ARRAYS[dtype].from(elements);
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Each byte string behind its length. */
function joined(elements) {
  const encoder = new TextEncoder();
  const strings = Array.from(elements, (element) =>
    typeof element === "string" ? encoder.encode(element) : element,
  );
  const data = new Uint8Array(strings.reduce((bytes, string) => bytes + 4 + string.length, 0));
  const view = new DataView(data.buffer);
  let place = 0;
  for (const string of strings) {
    view.setUint32(place, string.length, true);
    data.set(string, place + 4);
    place += 4 + string.length;
  }
  return data;
}

function byteStrings(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const strings = [];
  for (let place = 0; place < data.length; ) {
    const length = view.getUint32(place, true);
    strings.push(data.subarray(place + 4, place + 4 + length));
    place += 4 + length;
  }
  return strings;
}

/** A bfloat16 is the upper half of a single-precision float. */
function widened(data) {
  const bits = Uint32Array.from({ length: data.length / 2 }, (_, i) => (data[2 * i] | (data[2 * i + 1] << 8)) << 16);
  return new Float32Array(bits.buffer);
}

/** Rounds to the nearest bfloat16, to even in the middle. */
function narrowed(elements) {
  const bits = new Uint32Array(Float32Array.from(elements).buffer);
  const halves = Uint16Array.from(bits, (bits) =>
    (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16,
  );
  return new Uint8Array(halves.buffer);
}
