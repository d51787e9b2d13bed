/**
 * From what the caller names to the folder that is fetched.
 */

import { LoadError } from "./errors.js";

/** A model folder: its address (with a trailing slash) and the name to call it by. */
export interface ModelFolder {
  url: string;
  name: string;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

/** Where bare names resolve when the caller gives no base: `models/` beside the page. */
export function defaultModelBase(): string {
  return new URL("models/", globalThis.document?.baseURI ?? globalThis.location?.href).href;
}

/**
 * Resolves a bare name (`"photo-search"`) against the base, and anything else (`"./my-model"`,
 * `"/models/clip"`, `"https://…"`, a `URL`) against the page.
 */
export function resolveModel(
  model: string | URL,
  options: { base?: string | URL; page?: string | URL } = {},
): ModelFolder {
  const page = options.page ?? globalThis.document?.baseURI ?? globalThis.location?.href;
  try {
    const url =
      model instanceof URL
        ? new URL(model)
        : NAME.test(model)
          ? new URL(`${model}/`, directory(new URL(options.base ?? defaultModelBase(), page)))
          : new URL(model, page);
    const folder = directory(url);
    return { url: folder.href, name: lastSegment(folder) };
  } catch (cause) {
    throw new LoadError("bad_model_url", `"${model}" is neither a model's name nor an address`, {
      cause,
    });
  }
}

/** The same address with a trailing slash and without query or fragment, so that files resolve inside it. */
function directory(url: URL): URL {
  const folder = new URL(url);
  folder.hash = "";
  folder.search = "";
  if (!folder.pathname.endsWith("/")) {
    folder.pathname += "/";
  }
  return folder;
}

function lastSegment(folder: URL): string {
  const segments = folder.pathname.split("/").filter(Boolean);
  return decodeURIComponent(segments.at(-1) ?? folder.host);
}

/**
 * The address of `path` inside `folder`. A path that leaves the folder (`../`, another host) is refused: it
 * comes from a file that was fetched.
 */
export function fileUrl(folder: string, path: string): string {
  const url = new URL(path, folder);
  if (!url.href.startsWith(folder) || url.href === folder) {
    throw new LoadError("path_outside_model", `"${path}" points outside the model's folder`);
  }
  return url.href;
}
