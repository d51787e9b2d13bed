/**
 * A vector that knows where it comes from.
 */

import type { Answered, AnsweredBy, Reason } from "./policy.js";

/** An L2-normalised vector. Compare only those whose {@link Embedding.fingerprint} is equal. */
export class Embedding extends Float32Array implements Answered {
  /** What is computed from it (`slice`, `map`) is of no model any more. */
  static get [Symbol.species](): Float32ArrayConstructor {
    return Float32Array;
  }

  /** Identifies the model and the preprocessing that made it. */
  readonly fingerprint: string;
  readonly answeredBy: AnsweredBy;
  readonly reason: Reason;

  /** @internal */
  constructor(values: ArrayLike<number>, fingerprint: string, { answeredBy, reason }: Answered) {
    super(values);
    this.fingerprint = fingerprint;
    this.answeredBy = answeredBy;
    this.reason = reason;
  }
}
