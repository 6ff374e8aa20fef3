/** Named JSON values beside the tensors: objects here, JSON texts in the contract. */

/** What the host gives; it has checked that every value is JSON. */
export function given(parameters) {
  return Object.fromEntries(parameters.map(({ key, value }) => [key, JSON.parse(value)]));
}

/** What the host is told. */
export function told(parameters = {}) {
  return Object.entries(parameters).map(([key, value]) => ({ key, value: JSON.stringify(value) }));
}
