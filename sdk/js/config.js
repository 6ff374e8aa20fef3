import { get as setting } from "wattle:pipeline/config@0.1.0";

import { Failure } from "./failure.js";

/** The value of a setting, or `undefined` where the release has no such key. */
export const get = setting;

/** The value of a setting, or a failure `missing-setting` that names it. */
export function require(key) {
  const value = setting(key);
  if (value === undefined) {
    throw new Failure("missing-setting", `the release has no setting '${key}'`);
  }
  return value;
}
