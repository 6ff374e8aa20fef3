/** From a file's bytes to what magika's graph takes. */

/** Bytes read from each end. */
const BLOCK = 4096;
/** Tokens kept of each end. */
const KEPT = 1024;
/** A token that stands for no byte. */
const PADDING = 256;
/** Fewer bytes than this, white space aside, say too little for the graph. */
const FEWEST = 8;

/** Tokens of a file: its beginning, then its end. */
export const TOKENS = 2 * KEPT;

/** The white space of Python's `bytes.strip`, in which magika was trained. */
const isSpace = (byte) => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);

/** Either `tokens` for the graph or an `answer` that needs none, for a text's UTF-8. */
export function features(file) {
  if (file.length === 0) return { answer: "empty" };
  const head = file.subarray(0, BLOCK);
  const tail = file.subarray(Math.max(file.length - BLOCK, 0));
  const start = head.findIndex((byte) => !isSpace(byte));
  const beginning = start < 0 ? head.subarray(0, 0) : head.subarray(start);
  if (beginning.length < FEWEST) return { answer: "txt" };
  const end = tail.subarray(0, tail.findLastIndex((byte) => !isSpace(byte)) + 1);
  const tokens = new Int32Array(TOKENS).fill(PADDING);
  tokens.set(beginning.subarray(0, KEPT));
  const kept = end.subarray(Math.max(end.length - KEPT, 0));
  tokens.set(kept, TOKENS - kept.length);
  return { tokens };
}
