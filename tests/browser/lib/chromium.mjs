// Starts the system's Chromium, headless, with a profile of its own.

import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

// The packages of this repository's scripts are those of the npm package.
const require = createRequire(new URL("../../../web/package.json", import.meta.url));

const FLAGS = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

// WebGPU on the CPU: a headless Chromium on a machine without a GPU offers none by itself.
const WEBGPU_FLAGS = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

/**
 * Opens a fresh browser, hands `use` its page and cleans up, whatever happens.
 *
 * @template T
 * @param {{ chromium: string, device: string, viewport?: { width: number, height: number } }} options
 * @param {(page: import("playwright-core").Page) => Promise<T>} use
 * @returns {Promise<T>}
 */
export async function withPage({ chromium: executablePath, device, viewport }, use) {
  const { chromium } = loadPlaywright();
  const profile = await mkdtemp(join(tmpdir(), "lenslet-browser-"));
  try {
    const context = await chromium.launchPersistentContext(profile, {
      executablePath,
      headless: true,
      args: device === "webgpu" ? [...FLAGS, ...WEBGPU_FLAGS] : FLAGS,
      viewport: viewport ?? { width: 1280, height: 800 },
    });
    try {
      return await use(context.pages()[0] ?? (await context.newPage()));
    } finally {
      await context.close();
    }
  } finally {
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

/**
 * Prints what the page says and collects what goes wrong in it.
 *
 * @param {import("playwright-core").Page} page
 * @returns {{ errors: string[], foreign: string[], crashed: Promise<never> }} uncaught errors; addresses
 *   outside the page's own origin that it asked for; a promise that rejects if the page crashes
 */
export function watch(page, origin) {
  const errors = [];
  const foreign = [];
  page.on("console", (message) => console.error(`[${message.type()}] ${message.text()}`));
  page.on("pageerror", (error) => {
    console.error(`[uncaught] ${error.stack ?? error}`);
    errors.push(String(error));
  });
  page.on("requestfailed", (request) => {
    console.error(`[request failed] ${request.url()}: ${request.failure()?.errorText}`);
  });
  page.context().on("request", (request) => {
    const url = new URL(request.url());
    if (/^(https?|wss?):$/.test(url.protocol) && url.origin !== origin) {
      foreign.push(url.href);
    }
  });
  const crashed = new Promise((_, reject) => {
    page.on("crash", () => reject(new Error("the page crashed (out of memory?)")));
  });
  // Handled by whoever races it; a crash after that is no news.
  crashed.catch(() => {});
  return { errors, foreign, crashed };
}

/**
 * Opens a page and waits for what it sets `window.__lenslet_results` to.
 *
 * @param {import("playwright-core").Page} page
 * @param {URL} url
 * @param {number} timeout in milliseconds
 * @param {string} late what to say when the time is up
 * @param {ReturnType<typeof watch>} watched the page, as {@link watch} watches it
 */
export async function collect(page, url, timeout, late, watched = watch(page, url.origin)) {
  const { crashed, errors } = watched;
  const response = await page.goto(url.href);
  if (!response?.ok()) {
    throw new Error(`${url.href} answers ${response?.status()}`);
  }
  try {
    await page.waitForFunction(() => globalThis.__lenslet_results !== undefined, null, {
      timeout: 60_000,
    });
  } catch (error) {
    const why = errors.length > 0 ? `: ${errors.join("; ")}` : "";
    throw new Error(`the page did not set window.__lenslet_results within 60 s${why}`, {
      cause: error,
    });
  }
  const results = page.evaluate(() => globalThis.__lenslet_results);
  return await within(timeout, late, Promise.race([results, crashed]));
}

/**
 * Rejects with `what` when `milliseconds` have passed before `promise` settles.
 *
 * @template T
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
export async function within(milliseconds, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`gave up after ${milliseconds / 1000} s: ${what}`)),
      milliseconds,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function loadPlaywright() {
  try {
    return require("playwright-core");
  } catch (error) {
    throw new Error("playwright-core is not installed: run `cargo xtask setup`", { cause: error });
  }
}
