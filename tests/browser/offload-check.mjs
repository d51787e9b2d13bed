// Uses the search page with a server, as a person would, and prints what it found as JSON.
//
//   node tests/browser/offload-check.mjs --chromium PATH --url URL --server PROGRAM
//     [--screenshot FILE] [--timeout SECONDS]
//
// The page is of another origin than the server, and has a key for it. Status 0: while the page is local-only the server
// sees no byte; told that the local model is too slow, the page has searches and descriptions from the server; when that is
// killed in the middle of a description, it goes on here, with nothing said twice; each says who answered. 1: not so; 2: bad
// usage.

import { main, readArgs, readSeconds } from "./lib/args.mjs";
import { watch, within, withPage } from "./lib/chromium.mjs";
import { RelayedServer } from "./lib/relay.mjs";
import { SearchPage } from "./lib/search-page.mjs";

const KEY = "the-pages-key";
const MODELS = ["photo-search", "emoji-captioner"];

/** Pictures to describe: the first whose description has several words is taken. */
const MOST_TRIED = 12;

await main(async () => {
  const args = readArgs(["chromium", "url", "server"], ["screenshot", "timeout"]);
  const timeout = readSeconds(args.timeout, 600);
  const url = new URL(args.url);
  const server = await RelayedServer.start(
    args.server,
    [...MODELS.flatMap((model) => ["--model", model]), "--cors-origin", url.origin],
    { LENSLET_API_KEYS: KEY, LENSLET_LOG: "warn", LENSLET_DEVICE: "cpu" },
    60_000,
  );
  url.searchParams.set("server", server.url);
  url.searchParams.set("localms", "60000");
  url.hash = `key=${KEY}`;
  try {
    const report = await withPage({ chromium: args.chromium, device: "auto" }, async (page) => {
      const watched = watch(page, url.origin);
      const check = checkPage(page, url, server, timeout, args.screenshot);
      const found = await within(timeout, "the check", Promise.race([check, watched.crashed]));
      const foreign = watched.foreign.filter((address) => !address.startsWith(server.url));
      return { ...found, errors: watched.errors, foreign_requests: foreign };
    });
    console.log(JSON.stringify(report, null, 2));
    return verdict(report);
  } finally {
    await server.stop();
  }
});

async function checkPage(page, url, server, timeout, screenshot) {
  const search = new SearchPage(page, timeout);
  await page.goto(url.href);
  await search.openGallery("photos");
  const local = { search: await search.ask("a cat") };
  for (const path of (await search.ask("an animal")).top5.concat((await search.ask("a machine")).top5).slice(0, MOST_TRIED)) {
    local.described = { path, ...(await describe(page, search, path)) };
    if (local.described.text.split(/\s+/).length >= 3) {
      break;
    }
  }
  const seen = { connections: server.connections, bytes: server.bytes, requests: await server.counted("/v1/", KEY) };

  await search.answerBy("auto");
  const automatic = { search: await search.ask("a horse") };
  await search.ask("an animal");
  const { path } = local.described;
  automatic.described = await describe(page, search, path);
  const asked = { connections: server.connections, requests: await server.counted("/v1/", KEY) };
  if (screenshot !== undefined) {
    await search.settle();
    await page.screenshot({ path: screenshot.replace(/(\.png)?$/, "-server.png") });
  }

  server.killInText();
  const cut = await describe(page, search, path, true);
  if (screenshot !== undefined) {
    await search.settle();
    await page.screenshot({ path: screenshot.replace(/(\.png)?$/, "-cut.png") });
  }
  await search.close();
  const after = await search.ask("a rocket");
  if (screenshot !== undefined) {
    await page.evaluate(() => scrollTo(0, 0));
    await search.settle();
    await page.screenshot({ path: screenshot });
  }
  return { local, seen_while_local: seen, automatic, seen_then: asked, cut, killed: server.killed === true, after };
}

/** What is said of a picture that is among the tiles, and by whom. The picture is closed again. */
async function describe(page, search, path, stay = false) {
  if ((await page.locator(`#results [data-path="${path}"]`).count()) === 0) {
    await search.ask("");
  }
  const text = await search.describe(path);
  const by = await page.getAttribute(".description", "data-answered-by");
  const words = (await page.innerText(".description .by")).trim();
  if (!stay) {
    await search.close();
  }
  console.error(`  ${path}: ${JSON.stringify(text)} by ${by}`);
  return { text, by, words };
}

function verdict(report) {
  const { local, seen_while_local: seen, automatic, seen_then: then, cut, after } = report;
  const complaints = [];
  const expect = (so, complaint) => {
    if (!so) {
      complaints.push(complaint);
    }
  };
  expect(local.search.by === "local" && local.search.reason === "local_only", "the first search was not local");
  expect(local.described.by === "local", "the first description was not local");
  expect(local.described.text.split(/\s+/).length >= 3, "no description is long enough to be cut");
  const silent = seen.connections === 0 && seen.bytes === 0 && seen.requests === 0;
  expect(silent, `local-only, and the server saw ${JSON.stringify(seen)}`);
  expect(automatic.search.by === "server" && automatic.search.reason === "faster", "a slow device was not relieved of a search");
  expect(automatic.described.by === "server", "a slow device was not relieved of a description");
  expect(then.requests > 0, "the server did not count what it was asked");
  expect(automatic.described.text === local.described.text, "the server says something else of the same picture");
  expect(report.killed && cut.by === "server,local", `the cut description is by ${cut.by}`);
  expect(cut.text === local.described.text, `the cut description is ${JSON.stringify(cut.text)}`);
  expect(/server.*this device/.test(cut.words), `the page does not say who wrote: ${cut.words}`);
  expect(after.by === "local" && after.reason === "server_unreachable", `the last search is by ${after.by}, ${after.reason}`);
  expect(report.errors.length === 0, `uncaught errors on the page: ${report.errors.join("; ")}`);
  expect(report.foreign_requests.length === 0, `the page asked others: ${report.foreign_requests.join(", ")}`);
  for (const complaint of complaints) {
    console.error(`offload check: ${complaint}`);
  }
  return complaints.length === 0 ? 0 : 1;
}
