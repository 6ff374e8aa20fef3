import { told } from "./parameters.js";

/** Throw it to refuse a call, or in `describe` a release. */
export class Failure extends Error {
  constructor(code, message, { retryable = false, parameters = {} } = {}) {
    super(message);
    this.name = "Failure";
    this.code = code;
    this.retryable = retryable;
    this.parameters = parameters;
  }

  /** The failure as the contract has it. */
  told() {
    const { code, message, retryable, parameters } = this;
    return { code, message, retryable, parameters: told(parameters) };
  }
}
