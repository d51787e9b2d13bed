/**
 * A model that puts pictures and texts into one space.
 */

import { type LoadedModel, type LoadOptions, loadModel, Model } from "./loading.js";
import { type ImageSource, sendable } from "./picture.js";
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
  return new DualTower(await loadModel("load", model, options));
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

  /** One L2-normalised vector per picture. A picture that cannot be read fails the call. */
  async embedImages(
    sources: readonly ImageSource[],
    { signal }: EmbedOptions = {},
  ): Promise<Float32Array[]> {
    const sent = await Promise.all(sources.map(sendable));
    const pictures = sent.map(({ picture }) => picture);
    const transfer = sent.flatMap((one) => one.transfer);
    return this.#split(await this.client.call("embedImages", { pictures }, { signal, transfer }));
  }

  /** One L2-normalised vector per text. Texts beyond the model's context are truncated. */
  async embedTexts(
    texts: readonly string[],
    { signal }: EmbedOptions = {},
  ): Promise<Float32Array[]> {
    return this.#split(await this.client.call("embedTexts", { texts: [...texts] }, { signal }));
  }

  #split(packed: Float32Array): Float32Array[] {
    const count = packed.length / this.dim;
    return Array.from({ length: count }, (_, i) => packed.slice(i * this.dim, (i + 1) * this.dim));
  }
}
