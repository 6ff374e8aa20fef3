import { write } from "wattle:pipeline/log@0.1.0";

/** Notes something of interest only when looking for a fault. */
export const debug = (message) => write("debug", message);

/** Notes something of interest. */
export const info = (message) => write("info", message);

/** Notes something that looks wrong. */
export const warn = (message) => write("warn", message);

/** Notes something that is wrong. */
export const error = (message) => write("error", message);
