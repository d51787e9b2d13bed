// Opens a page that measures in a fresh headless Chromium and prints what it found as JSON. Started by `cargo xtask bench`.
//
//   node tests/browser/bench-page.mjs --chromium PATH --url URL [--timeout SECONDS]
//
// The page sets `window.__lenslet_results`. Status 0: it did, and asked no other origin for anything; 1: not
// so; 2: bad usage.

import { main, readArgs, readSeconds } from "./lib/args.mjs";
import { collect, watch, withPage } from "./lib/chromium.mjs";

await main(async () => {
  const args = readArgs(["chromium", "url"], ["timeout"]);
  const timeout = readSeconds(args.timeout, 900);
  const url = new URL(args.url);

  const found = await withPage({ chromium: args.chromium, device: "wasm" }, async (page) => {
    const watched = watch(page, url.origin);
    const results = await collect(page, url, timeout, "the measurement did not end", watched);
    if (watched.foreign.length > 0) {
      throw new Error(`the page asked other origins: ${watched.foreign.join(", ")}`);
    }
    return results;
  });
  console.log(JSON.stringify(found));
  return 0;
});
