import { type Answered, isAbort, type SearchHit } from "lenslet";
import type { Gallery } from "./gallery.js";
import type { Picture } from "./pictures.js";

/** What is being looked for. */
export type Query = { text: string } | { like: Picture };

/** Hits of one query. */
export interface Answer {
  query: Query;
  hits: SearchHit[];
  /** Milliseconds from the question to the hits. */
  ms: number;
  /** Who computed the query's vector. */
  by: Answered;
}

/** Whether the query asks for nothing. */
export const isEmpty = (query: Query): boolean => "text" in query && query.text === "";

/** The query in one line, for `data-query`. */
export const queryKey = (query: Query): string =>
  "text" in query ? query.text : `like:${query.like.path}`;

/** Runs searches; only the latest one matters, the one before it is cancelled. */
export class Searcher {
  #running: AbortController | undefined;

  /** The hits, or nothing if another search overtook this one. */
  async run(gallery: Gallery, query: Query): Promise<Answer | undefined> {
    this.#running?.abort();
    const controller = new AbortController();
    this.#running = controller;
    const { index } = gallery;
    if (!index) {
      return undefined;
    }
    const start = performance.now();
    try {
      const source = "text" in query ? query.text : await blobOf(query.like);
      // The index of one's own pictures remembers more than this visit has brought.
      const k = gallery.plan.name === "yours" ? Math.max(index.size, 1) : gallery.plan.k;
      const hits = await index.search(source, { k, signal: controller.signal });
      const ms = performance.now() - start;
      const shown = hits.filter(({ path }) => gallery.pictures.has(path)).slice(0, gallery.plan.k);
      return controller.signal.aborted ? undefined : { query, hits: shown, ms, by: hits };
    } catch (error) {
      if (isAbort(error)) {
        return undefined;
      }
      throw error;
    }
  }

  /** Gives up the search under way. */
  cancel(): void {
    this.#running?.abort();
  }
}

async function blobOf({ item }: Picture): Promise<Blob> {
  return item.blob instanceof Blob ? item.blob : item.blob();
}
