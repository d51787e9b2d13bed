// Command-line arguments of the browser scripts.

import { parseArgs } from "node:util";

/** Bad usage; the scripts end with status 2. */
export class UsageError extends Error {}

/**
 * Reads `--name value` options, all of them strings.
 *
 * @param {string[]} required names that must be given
 * @param {string[]} optional names that may be given
 * @returns {Record<string, string | undefined>}
 */
export function readArgs(required, optional) {
  const options = {};
  for (const name of [...required, ...optional]) {
    options[name] = { type: "string" };
  }
  let values;
  try {
    ({ values } = parseArgs({ options, strict: true, allowPositionals: false }));
  } catch (error) {
    throw new UsageError(error.message);
  }
  const missing = required.filter((name) => values[name] === undefined);
  if (missing.length > 0) {
    throw new UsageError(`missing: ${missing.map((name) => `--${name}`).join(", ")}`);
  }
  return values;
}

/**
 * A positive number of seconds, in milliseconds.
 *
 * @param {string | undefined} text
 * @param {number} fallback seconds if none are given
 */
export function readSeconds(text, fallback) {
  const seconds = text === undefined ? fallback : Number(text);
  if (!(seconds > 0)) {
    throw new UsageError(`not a number of seconds: ${text}`);
  }
  return seconds * 1000;
}

/** Runs a script's main function; its result is the exit status. Errors go to standard error. */
export async function main(run) {
  try {
    process.exitCode = await run();
  } catch (error) {
    console.error(error instanceof UsageError ? `usage: ${error.message}` : error);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}
