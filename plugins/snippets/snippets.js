/**
 * Lists the code in a Markdown page and names each block's language: as its author did, else by magika's model.
 *
 * The release has the graph `magika`, `bytes` i32 [n, 2048] to `target_label` f32 [n, 214], and the setting `labels`:
 * a JSON array with what each of the graph's columns stands for.
 */

import { Failure, Response, Tensor, config, graph, pipeline } from "../../sdk/js/index.js";
import { TOKENS, features } from "./features.js";
import { codeBlocks } from "./markdown.js";

/** Blocks in a page. */
const MAX_BLOCKS = 256;

function describe() {
  labels();
  return {
    inputs: { page: { dtype: "bytes", shape: [1] } },
    outputs: {
      code: { dtype: "bytes", shape: [null] },
      language: { dtype: "bytes", shape: [null] },
      line: { dtype: "u32", shape: [null] },
      score: { dtype: "fp32", shape: [null] },
    },
  };
}

function infer(request) {
  const [page] = request.input("page").texts();
  const blocks = codeBlocks(page);
  if (blocks.length > MAX_BLOCKS) {
    throw new Failure("too-many-blocks", `${blocks.length} blocks of code; a page may have ${MAX_BLOCKS}`);
  }
  const guesses = guess(blocks.filter(({ language }) => !language).map(({ code }) => code));
  const answers = blocks.map(({ language }) => (language ? { language, score: 1 } : guesses.shift()));
  const outputs = {
    code: Tensor.of("bytes", blocks.map(({ code }) => code)),
    language: Tensor.of("bytes", answers.map(({ language }) => language)),
    line: Tensor.of("u32", blocks.map(({ line }) => line)),
    score: Tensor.of("fp32", answers.map(({ score }) => score)),
  };
  return new Response(outputs, { guessed: answers.filter((_, i) => !blocks[i].language).length });
}

/** A language and its score for each code, from one run of the graph over all of them. */
function guess(codes) {
  const encoder = new TextEncoder();
  const read = codes.map((code) => features(encoder.encode(code)));
  const rows = read.filter((features) => features.tokens);
  const columns = labels();
  const scores = rows.length > 0 ? run(rows.map(({ tokens }) => tokens), columns.length) : [];
  return read.map(({ answer }) => (answer ? { language: answer, score: 1 } : choose(columns, scores.shift())));
}

/** The graph's scores, a row for each of `tokens`. */
function run(tokens, columns) {
  const input = new Int32Array(tokens.length * TOKENS);
  tokens.forEach((row, i) => input.set(row, i * TOKENS));
  const { target_label } = graph("magika").compute({ bytes: Tensor.of("i32", input, [tokens.length, TOKENS]) });
  const scores = target_label.expect("fp32").values();
  if (scores.length !== tokens.length * columns) {
    throw new Failure("wrong-labels", `${scores.length / tokens.length} scores for ${columns} labels`);
  }
  return tokens.map((_, i) => scores.subarray(i * columns, (i + 1) * columns));
}

/** The label with the highest score; where that is too low to be believed, only `txt` or `unknown`. */
function choose(columns, scores) {
  const score = Math.max(...scores);
  const { label, answer, threshold, text } = columns[scores.indexOf(score)];
  const unsure = text ? "txt" : "unknown";
  return { language: score >= threshold ? (answer ?? label) : unsure, score };
}

/** The setting `labels`. */
function labels() {
  const text = config.require("labels");
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Failure("malformed-labels", `the setting 'labels': ${error.message}`);
  }
}

export const handler = pipeline({ describe, infer });
