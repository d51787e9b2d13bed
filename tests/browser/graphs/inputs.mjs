// Inputs that no model minds, the same for both runtimes and for `lenslet bench`.

/**
 * @param {(number | string)[]} shape sizes, or their names
 * @param {Record<string, number>} sizes by name
 */
export function concrete(shape, sizes) {
  return shape.map((size) => {
    const found = typeof size === "number" ? size : sizes[size];
    if (found === undefined) {
      throw new Error(`the size ${size} is not given`);
    }
    return found;
  });
}

/** Ones for ids and masks, a slow wave for pictures. */
export function sample(integers, shape) {
  const count = shape.reduce((product, size) => product * size, 1);
  if (integers) {
    return new BigInt64Array(count).fill(1n);
  }
  return Float32Array.from({ length: count }, (_, i) => Math.sin((i % 997) * 0.013));
}
