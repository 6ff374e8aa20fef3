/** Fenced code, as CommonMark has it, at any indentation. */

/** A fence: its indentation, its marks, and what stands behind them. Behind backticks there is no other. */
const OPENING = /^([ \t]*)(`{3,}(?=[^`]*$)|~{3,})(.*)$/;

/**
 * The blocks of code of a page, each with the line that it begins on, from 1. A block that is never closed ends with
 * the page.
 */
export function codeBlocks(page) {
  const lines = page.split(/\r\n|\n|\r/);
  const blocks = [];
  for (let at = 0; at < lines.length; at++) {
    const opening = OPENING.exec(lines[at]);
    if (!opening) continue;
    const [, indent, marks, info] = opening;
    const begin = at + 1;
    do at++;
    while (at < lines.length && !closes(lines[at], marks));
    const code = lines.slice(begin, at).map((line) => unindented(line, indent.length));
    blocks.push({
      code: code.map((line) => `${line}\n`).join(""),
      language: info.trim().split(/\s/, 1)[0].toLowerCase(),
      line: begin + 1,
    });
  }
  return blocks;
}

/** Whether a line ends what `marks` began: with the same marks, as many or more, and nothing else. */
function closes(line, marks) {
  const text = line.trim();
  return text.length >= marks.length && text === marks[0].repeat(text.length);
}

/** A line without the opening fence's indentation, as far as it has it. */
function unindented(line, columns) {
  const indent = line.length - line.trimStart().length;
  return line.slice(Math.min(indent, columns));
}
