// Uses the search page as a person would and prints what it found as JSON.
//
//   node tests/browser/demo-check.mjs --chromium PATH --url URL --queries FILE
//     [--device auto|wasm|webgpu] [--screenshot FILE] [--timeout SECONDS]
//
// Indexes both galleries, types every query of FILE and reads the first five tiles; has the best emoji of the
// last query described. Status 0: at most two queries miss, there is a description, nothing went wrong on the
// page and it asked no other origin for anything; 1: not so;
// 2: bad usage. FILE: { photos: [{ query, expect: [file] }], emoji: [{ query, lang?, expect: [file] }] };
// a query hits when one of the expected files is among the five.

import { readFile } from "node:fs/promises";

import { main, readArgs, readSeconds } from "./lib/args.mjs";
import { watch, within, withPage } from "./lib/chromium.mjs";
import { SearchPage } from "./lib/search-page.mjs";

const MOST_MISSES = 2;
const GALLERIES = ["photos", "emoji"];

await main(async () => {
  const args = readArgs(["chromium", "url", "queries"], ["device", "screenshot", "timeout"]);
  const device = args.device ?? "auto";
  const timeout = readSeconds(args.timeout, 1200);
  const queries = JSON.parse(await readFile(args.queries, "utf8"));
  const url = new URL(args.url);
  if (device !== "auto") {
    url.searchParams.set("device", device);
  }

  const report = await withPage({ chromium: args.chromium, device }, async (page) => {
    const watched = watch(page, url.origin);
    const check = checkPage(page, url, queries, timeout, args.screenshot);
    const found = await within(timeout, "the demo check", Promise.race([check, watched.crashed]));
    return { ...found, errors: watched.errors, foreign_requests: watched.foreign };
  });
  console.log(JSON.stringify(report, null, 2));
  return verdict(report, device);
});

async function checkPage(page, url, queries, timeout, screenshot) {
  const search = new SearchPage(page, timeout);
  const indexMs = {};
  const asked = [];
  // The first gallery's time has the start of the page and of the model in it, as for a visitor.
  let started = performance.now();
  await page.goto(url.href);
  for (const gallery of GALLERIES) {
    console.error(`indexing ${gallery} ...`);
    await search.openGallery(gallery);
    indexMs[gallery] = Math.round(performance.now() - started);
    for (const { query, lang, expect } of queries[gallery] ?? []) {
      const { top5, scores, ms } = await search.ask(query);
      const hit = top5.some((path) => expect.some((file) => isFile(path, file)));
      console.error(`  ${hit ? "hit " : "MISS"} ${query}: ${top5.join(", ")}`);
      asked.push({ gallery, query, lang, top5, scores, expected: expect, hit, ms });
    }
    if (screenshot !== undefined && gallery === GALLERIES[0]) {
      await search.settle();
      await page.screenshot({ path: screenshot });
    }
    started = performance.now();
  }
  const path = asked.at(-1)?.top5[0];
  console.error(`describing ${path} ...`);
  const text = await search.describe(path);
  console.error(`  ${text}`);
  return {
    device: await search.device(),
    index_ms: indexMs,
    queries: asked,
    misses: asked.filter(({ hit }) => !hit).length,
    described: { path, text, ms: Math.round(performance.now() - started) },
  };
}

/** Tells on standard error why a report is not good, and returns the exit status. */
function verdict(report, device) {
  const complaints = [];
  if (report.queries.length === 0) {
    complaints.push("there was no query to try");
  }
  if (report.misses > MOST_MISSES) {
    complaints.push(
      `${report.misses} of ${report.queries.length} queries miss, ${MOST_MISSES} may`,
    );
  }
  if (!/\p{Letter}/u.test(report.described.text)) {
    complaints.push(`the description of ${report.described.path} is empty`);
  }
  if (device !== "auto" && report.device !== device) {
    complaints.push(`the page ran on ${report.device} instead of ${device}`);
  }
  if (report.errors.length > 0) {
    complaints.push(`uncaught errors on the page: ${report.errors.join("; ")}`);
  }
  if (report.foreign_requests.length > 0) {
    complaints.push(`the page asked other origins: ${report.foreign_requests.join(", ")}`);
  }
  for (const complaint of complaints) {
    console.error(`demo check: ${complaint}`);
  }
  return complaints.length === 0 ? 0 : 1;
}

/** Whether a tile's path is the named file, with or without its folder. */
function isFile(path, file) {
  return path === file || path.endsWith(`/${file}`);
}
