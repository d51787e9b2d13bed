/**
 * A model that describes pictures.
 */

import { type LoadOptions, loadModel, Model } from "./loading.js";
import { type ImageSource, sendable } from "./picture.js";
import { readAll, TextStream, type WritingOptions, type Written, wishesOf } from "./text-stream.js";

/**
 * Loads a captioner: an image encoder and a decoder that attends to it. `model` is a name (looked up under
 * `baseUrl`) or the address of a model's folder. Everything heavy happens in a Web Worker of its own.
 */
export async function loadCaptioner(
  model: string | URL,
  options: LoadOptions = {},
): Promise<Captioner> {
  return new Captioner(await loadModel("loadCaptioner", model, options));
}

/** A loaded captioner. Make one with {@link loadCaptioner}; free it with {@link Captioner.dispose}. */
export class Captioner extends Model {
  /** The caption of a picture. */
  caption(source: ImageSource, options: WritingOptions = {}): Promise<Written> {
    return readAll(this.stream(source, options));
  }

  /** The caption of a picture, piece by piece. */
  stream(source: ImageSource, options: WritingOptions = {}): TextStream {
    const wishes = wishesOf(options);
    return new TextStream(
      this.client,
      async (signal) => {
        const { picture, transfer } = await sendable(source);
        return this.client.call("caption", { picture, wishes }, { signal, transfer });
      },
      options.signal,
    );
  }
}
