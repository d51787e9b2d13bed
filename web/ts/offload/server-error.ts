/**
 * What can go wrong with a server.
 */

import { LensletError } from "../errors.js";
import type { Reason } from "./policy.js";

/** What may go wrong with it: these are the words that {@link ServerError.kind} takes. */
export type ServerTrouble =
  | Extract<Reason, `server_${string}`>
  | "offline"
  | "local_only"
  | "other_model";

/** The server could not be asked, or did not answer. Thrown only where the local model cannot answer either. */
export class ServerError extends LensletError {
  declare readonly kind: ServerTrouble;
  /** The HTTP status, if there was an answer. */
  readonly status: number | undefined;
  /** How long the server asked to be left alone, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** The server's own word for what went wrong. */
  readonly code: string | undefined;

  constructor(
    kind: ServerTrouble,
    message: string,
    options: ErrorOptions & { status?: number; retryAfterMs?: number; code?: string } = {},
  ) {
    super(kind, message, options);
    this.name = "ServerError";
    this.status = options.status;
    this.retryAfterMs = options.retryAfterMs;
    this.code = options.code;
  }
}

/** Whether the server is to be left alone for a while, and not only this request. */
export function needsPause({ kind }: ServerError): boolean {
  return !["server_rejected", "server_no_model", "local_only", "other_model"].includes(kind);
}

/** What an answer that is no success means. */
export function troubleOf(status: number): ServerTrouble {
  switch (status) {
    case 401:
    case 403:
      return "server_refused";
    case 404:
      return "server_no_model";
    case 408:
    case 504:
      return "server_timeout";
    case 429:
      return "server_overloaded";
    case 502:
    case 503:
      return "server_unavailable";
    default:
      return status >= 400 && status < 500 ? "server_rejected" : "server_failed";
  }
}

/** `Retry-After` in milliseconds: seconds, or a date. */
export function retryAfter(header: string | null, now: number): number | undefined {
  if (header === null) {
    return undefined;
  }
  const seconds = Number(header);
  if (Number.isFinite(seconds)) {
    return Math.max(0, seconds * 1000);
  }
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
