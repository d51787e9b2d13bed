// Runs a suite page in headless Chromium and writes its results as JSON.
//
//   node tests/browser/run-suite.mjs --chromium PATH --url URL --device wasm|webgpu --report FILE
//     [--filter TEXT] [--timeout SECONDS]
//
// The page is opened with ?device=DEVICE (and &filter=TEXT) and sets `window.__lenslet_results` to a
// promise of { device, cases: [{ name, ok, detail?, skipped? }] }. What it prints to the console appears
// here while it runs. Status 0: every case passed or was skipped; 1: not so; 2: bad usage.

import { writeFile } from "node:fs/promises";

import { main, readArgs, readSeconds } from "./lib/args.mjs";
import { collect, withPage } from "./lib/chromium.mjs";

await main(async () => {
  const args = readArgs(["chromium", "url", "device", "report"], ["filter", "timeout"]);
  const timeout = readSeconds(args.timeout, 1800);
  const url = new URL(args.url);
  url.searchParams.set("device", args.device);
  if (args.filter !== undefined) {
    url.searchParams.set("filter", args.filter);
  }

  const started = performance.now();
  const results = await withPage(args, (page) => collect(page, url, timeout, "the suite did not end"));
  const report = summarise(results, args.device, performance.now() - started);
  await writeFile(args.report, `${JSON.stringify(report, null, 2)}\n`);

  for (const { name, detail } of report.cases.filter((one) => !one.ok && !one.skipped)) {
    console.log(`FAILED ${name}: ${detail ?? "no detail"}`);
  }
  const { passed, failed, skipped } = report;
  console.log(`${args.device}: ${passed} passed, ${failed} failed, ${skipped} skipped`);
  return failed === 0 && passed > 0 ? 0 : 1;
});

/** Checks the shape of the page's results and counts them. */
function summarise(results, device, milliseconds) {
  if (!Array.isArray(results?.cases)) {
    throw new Error(`the page's results are not { device, cases }: ${JSON.stringify(results)}`);
  }
  if (results.device !== device) {
    throw new Error(`the page ran on ${results.device} instead of ${device}`);
  }
  const { cases } = results;
  const skipped = cases.filter((one) => one.skipped).length;
  const passed = cases.filter((one) => one.ok && !one.skipped).length;
  return {
    device,
    seconds: Math.round(milliseconds) / 1000,
    passed,
    failed: cases.length - passed - skipped,
    skipped,
    cases,
  };
}
