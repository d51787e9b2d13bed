// What the parts of the suite read, and from where.

/** Where the suite runs: wasm or webgpu. */
export const device = new URLSearchParams(location.search).get("device") ?? "wasm";

/** Why a case is skipped on a machine without the test graphs. */
export const ABSENT = "the test material (shared) is not on this machine";

/** The bytes at an address, or nothing if there is no such file. */
export async function optional(url) {
  const response = await fetch(url);
  if (response.status === 404) {
    return undefined;
  }
  if (!response.ok) {
    throw new Error(`${url} answers ${response.status}`);
  }
  return new Uint8Array(await response.arrayBuffer());
}

/** The bytes at an address. */
export async function bytes(url) {
  const found = await optional(url);
  if (found === undefined) {
    throw new Error(`there is no ${url}`);
  }
  return found;
}

/** JSON in bytes. */
export function json(data) {
  return JSON.parse(new TextDecoder().decode(data));
}
