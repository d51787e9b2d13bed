/**
 * A model that puts pictures and texts into one space.
 */

import { PictureError } from "./errors.js";
import { type LoadedModel, type LoadOptions, loadModel, Model } from "./loading.js";
import { Embedding } from "./offload/embedding.js";
import type { Answered, Reason } from "./offload/policy.js";
import type { ServedModel, ServedVectors, Server } from "./offload/server.js";
import { ServerError } from "./offload/server-error.js";
import { asFile, type ImageSource, sendable, sizeAsFile } from "./picture.js";
import type { TowerInfo } from "./protocol.js";

/** Options of the embedding calls. */
export interface EmbedOptions {
  /** Cancels between two pictures. */
  signal?: AbortSignal;
}

/**
 * Loads a dual tower. `model` is a name (`"photo-search"`, looked up under `baseUrl`) or the address of a
 * model's folder. Everything heavy happens in a Web Worker of its own.
 */
export async function loadDualTower(
  model: string | URL,
  options: LoadOptions = {},
): Promise<DualTower> {
  const standIn = ({ fingerprint, dimensions }: ServedModel, url: string) =>
    fingerprint === undefined || dimensions === undefined
      ? undefined
      : ({ device: "server", adapter: url, dim: dimensions, fingerprint } as const);
  return new DualTower(await loadModel("load", model, options, standIn));
}

/** A loaded dual tower. Make one with {@link loadDualTower}; free it with {@link DualTower.dispose}. */
export class DualTower extends Model {
  /** The length of its vectors. */
  readonly dim: number;
  /** Identifies model and preprocessing: vectors compare only if this is equal. */
  readonly fingerprint: string;

  /** @internal */
  constructor(loaded: LoadedModel<TowerInfo>) {
    super(loaded);
    this.dim = loaded.info.dim;
    this.fingerprint = loaded.info.fingerprint;
  }

  /**
   * One L2-normalised vector per picture. A picture that cannot be read fails the call. Each says whose it is: with
   * `quality: "full"` a server's model may have made it.
   */
  async embedImages(
    sources: readonly ImageSource[],
    { signal }: EmbedOptions = {},
  ): Promise<Embedding[]> {
    const made: Embedding[] = [];
    for (const source of this.offload ? sources : []) {
      made.push(...split(await this.#embedImage(source, signal), 1));
    }
    return this.offload ? made : split(await this.#here(sources, signal), sources.length);
  }

  /** Like {@link DualTower.embedImages} for texts. Texts beyond the model's context are truncated. */
  async embedTexts(texts: readonly string[], { signal }: EmbedOptions = {}): Promise<Embedding[]> {
    const sent = [...texts];
    const answer = await this.answer({
      parts: { text: sent.length },
      bytes: sent.reduce((sum, text) => sum + text.length, 0),
      misfit: this.misfit(this.offload?.quality === "full"),
      here: async () => ({
        values: await this.client.call("embedTexts", { texts: sent }, { signal }),
        fingerprint: this.fingerprint,
      }),
      there: (server, model) => server.embedTexts(model, sent, signal),
    });
    return split(answer, sent.length);
  }

  async #here(
    sources: readonly ImageSource[],
    signal: AbortSignal | undefined,
  ): Promise<[ServedVectors, Answered]> {
    const sent = await Promise.all(sources.map(sendable));
    const pictures = sent.map(({ picture }) => picture);
    const transfer = sent.flatMap((one) => one.transfer);
    const values = await this.client.call("embedImages", { pictures }, { signal, transfer });
    const answered = { answeredBy: "local", reason: "no_server" } as const;
    return [{ values, fingerprint: this.fingerprint }, answered];
  }

  #embedImage(
    source: ImageSource,
    signal: AbortSignal | undefined,
  ): Promise<[ServedVectors, Answered]> {
    return this.answer({
      parts: { image: 1 },
      bytes: sizeAsFile(source),
      misfit: this.misfit(this.offload?.quality === "full"),
      here: async () => (await this.#here([source], signal))[0],
      there: (server, model) => this.imageThere(server, model, source, signal),
    });
  }

  /** @internal Why a server's model will not do: its vectors are of another space. */
  misfit(anyModel: boolean): (served: ServedModel) => Reason | undefined {
    return ({ fingerprint }) => {
      const fits = anyModel ? fingerprint !== undefined : fingerprint === this.fingerprint;
      return fits ? undefined : "other_model";
    };
  }

  /** @internal The vector of a picture from a server. */
  async imageThere(
    server: Server,
    model: string,
    source: ImageSource,
    signal: AbortSignal | undefined,
  ): Promise<ServedVectors> {
    try {
      return await server.embedImage(model, await asFile(source), signal);
    } catch (error) {
      // Where the local model can look at the picture, it shall: it may know its format.
      if (error instanceof ServerError && this.local !== "ready" && isAboutPicture(error)) {
        throw new PictureError(error.code ?? "image_corrupt", error.message, { cause: error });
      }
      throw error;
    }
  }

  /** @internal A vector for something that has vectors of this tower's space only. */
  own({ values, fingerprint }: ServedVectors, server: Server, model: string): Float32Array {
    if (fingerprint !== this.fingerprint) {
      server.forget(model);
      const what = `${server.url} has another version of ${model}: its vectors do not compare`;
      throw new ServerError("other_model", what);
    }
    return values;
  }
}

/** So many vectors that lie end to end. */
function split([made, answered]: [ServedVectors, Answered], count: number): Embedding[] {
  const dim = made.values.length / Math.max(1, count);
  return Array.from({ length: count }, (_, i) => {
    const values = made.values.subarray(i * dim, (i + 1) * dim);
    return new Embedding(values, made.fingerprint, answered);
  });
}

const isAboutPicture = ({ code }: ServerError): boolean => code?.startsWith("image_") ?? false;
