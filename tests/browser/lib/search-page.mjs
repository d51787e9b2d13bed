// The search page as scripts see it. What they rely on, so keep it in web/apps/search:
//
//   #app                     data-state="loading|indexing|ready|error", data-device="webgpu|wasm",
//                            data-gallery="photos|emoji"; ready means that the gallery is indexed
//   [data-gallery-button=G]  shows gallery G
//   input[type=search]       searches as one types
//   #results                 data-query: the query whose results are shown; data-ms: how long it took;
//                            data-answered-by="local|server", data-reason
//   #server                  local, auto or server: who may answer; there if the page has a server
//   #results [data-path]     one a tile, best first, with data-score; it opens the picture by itself
//   [data-describe]          there, has the picture described
//   .description             data-state="loading|writing|done|error", data-answered-by: who wrote, in turn; .said holds
//                            the text, .by who wrote it in words

const QUERY_TIMEOUT_MS = 60_000;
const DESCRIBE_TIMEOUT_MS = 300_000;

/** Drives the page and reads it. */
export class SearchPage {
  #page;
  #timeout;

  /**
   * @param {import("playwright-core").Page} page
   * @param {number} timeout milliseconds that indexing may take
   */
  constructor(page, timeout) {
    this.#page = page;
    this.#timeout = timeout;
  }

  /** Shows a gallery and waits until it is indexed. */
  async openGallery(gallery) {
    await this.#page.click(`[data-gallery-button="${gallery}"]`);
    const reached = await this.#page.waitForFunction(
      (name) => {
        const app = document.querySelector("#app");
        const done = ["ready", "error"].includes(app?.dataset.state);
        return app?.dataset.gallery === name && done ? app.dataset.state : undefined;
      },
      gallery,
      { timeout: this.#timeout, polling: 100 },
    );
    if ((await reached.jsonValue()) === "error") {
      const text = await this.#page.innerText("#app");
      throw new Error(`the page reports an error:\n${text.slice(0, 2000)}`);
    }
  }

  /** Types a query and reads the first five tiles. */
  async ask(query) {
    const field = this.#page.locator("input[type=search]");
    await field.fill("");
    await field.pressSequentially(query);
    // The focus returns to a tile when a picture's view has closed, which a browser tells later: letters may be lost to it.
    if ((await field.inputValue()) !== query) {
      await field.fill(query);
    }
    const answered = this.#page.waitForFunction(
      (text) => document.querySelector("#results")?.dataset.query === text,
      query,
      { timeout: QUERY_TIMEOUT_MS, polling: 20 },
    );
    await answered.catch(async (error) => {
      const page = await this.#page.evaluate(() => ({
        typed: document.querySelector("input[type=search]")?.value,
        shown: document.querySelector("#results")?.dataset.query,
        says: document.querySelector("#app")?.innerText.slice(0, 500),
      }));
      throw new Error(`"${query}" is not answered: ${JSON.stringify(page)}`, { cause: error });
    });
    return await this.#page.evaluate(() => {
      const results = document.querySelector("#results");
      const tiles = [...results.querySelectorAll("[data-path]")].slice(0, 5);
      return {
        top5: tiles.map((tile) => tile.dataset.path),
        scores: tiles.map((tile) => Number(tile.dataset.score)),
        ms: Number(results.dataset.ms),
        by: results.dataset.answeredBy,
        reason: results.dataset.reason,
      };
    });
  }

  /** Opens the picture at `path`, which is shown, has it described, and returns what is said. The picture stays open. */
  async describe(path) {
    await this.#page.locator(`#results [data-path="${path}"]`).click();
    await this.#page.click("[data-describe]");
    const reached = await this.#page.waitForFunction(
      () => {
        const state = document.querySelector(".description")?.dataset.state;
        return ["done", "error"].includes(state) ? state : undefined;
      },
      undefined,
      { timeout: DESCRIBE_TIMEOUT_MS, polling: 100 },
    );
    if ((await reached.jsonValue()) === "error") {
      throw new Error(`the picture could not be described: ${await this.#page.innerText(".description")}`);
    }
    return (await this.#page.innerText(".description .said")).trim();
  }

  /** Says who may answer: `local`, `auto` or `server`. */
  async answerBy(mode) {
    await this.#page.selectOption("#server", mode);
  }

  /** Closes the picture that is open. */
  async close() {
    await this.#page.click("#detail .close");
  }

  /** Waits until pictures are loaded and movement has ended, for a screenshot. */
  async settle() {
    await this.#page.waitForLoadState("networkidle");
    await this.#page.waitForTimeout(500);
  }

  /** The device that computes. */
  async device() {
    return await this.#page.getAttribute("#app", "data-device");
  }
}
