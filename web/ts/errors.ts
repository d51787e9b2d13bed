/**
 * What can go wrong, as classes.
 *
 * Every error carries a `kind`: a short, stable, machine-readable word. The runtime's own errors come
 * through with the kind that the runtime gave them, so the same failure reads the same in Rust, over HTTP
 * and here.
 */

/** The names under which errors travel between the wasm module, the worker and the page. */
export type ErrorName =
  | "LensletError"
  | "LoadError"
  | "RunError"
  | "UnsupportedError"
  | "IndexError"
  | "PictureError"
  | "AbortError";

/** Anything that Lenslet throws, except a cancelled call (that is a `DOMException` named `AbortError`). */
export class LensletError extends Error {
  /** A stable word for the cause, such as `"not_found"` or `"unsupported_op"`. */
  readonly kind: string;

  constructor(kind: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "LensletError";
    this.kind = kind;
  }
}

/** A model could not be fetched, verified, read or compiled. */
export class LoadError extends LensletError {
  constructor(kind: string, message: string, options?: ErrorOptions) {
    super(kind, message, options);
    this.name = "LoadError";
  }
}

/** A loaded model failed while it ran, for example because the GPU was lost. */
export class RunError extends LensletError {
  constructor(kind: string, message: string, options?: ErrorOptions) {
    super(kind, message, options);
    this.name = "RunError";
  }
}

/** This browser lacks what the call needs. */
export class UnsupportedError extends LensletError {
  constructor(kind: string, message: string, options?: ErrorOptions) {
    super(kind, message, options);
    this.name = "UnsupportedError";
  }
}

/** An image index is damaged, or belongs to another model (`kind` is then `"index_fingerprint"`). */
export class IndexError extends LensletError {
  constructor(kind: string, message: string, options?: ErrorOptions) {
    super(kind, message, options);
    this.name = "IndexError";
  }
}

/** A picture cannot be read: corrupt, empty, or larger than Lenslet accepts. */
export class PictureError extends LensletError {
  constructor(kind: string, message: string, options?: ErrorOptions) {
    super(kind, message, options);
    this.name = "PictureError";
  }
}

/** An error in the form that survives `postMessage`. */
export interface WireError {
  name: ErrorName;
  kind: string;
  message: string;
}

type ErrorClass = new (kind: string, message: string, options?: ErrorOptions) => LensletError;

const CLASSES: Readonly<Record<Exclude<ErrorName, "AbortError">, ErrorClass>> = {
  LensletError,
  LoadError,
  RunError,
  UnsupportedError,
  IndexError,
  PictureError,
};

function isErrorName(name: unknown): name is ErrorName {
  return typeof name === "string" && (name === "AbortError" || Object.hasOwn(CLASSES, name));
}

/** Whether `error` says that the caller cancelled. */
export function isAbort(error: unknown): boolean {
  return (
    typeof error === "object" && error !== null && "name" in error && error.name === "AbortError"
  );
}

/**
 * Brings any thrown value into the form that crosses a worker boundary. Values that are not Lenslet's own
 * (a `TypeError` from the network, a trap from wasm) become `fallback`.
 */
export function toWire(error: unknown, fallback: ErrorName = "RunError"): WireError {
  if (typeof error !== "object" || error === null) {
    return { name: fallback, kind: "unknown", message: String(error) };
  }
  const message = "message" in error ? String(error.message) : String(error);
  if (isAbort(error)) {
    return { name: "AbortError", kind: "aborted", message };
  }
  const kind = "kind" in error && typeof error.kind === "string" ? error.kind : undefined;
  const name = "name" in error && isErrorName(error.name) ? error.name : fallback;
  if (error instanceof WebAssembly.RuntimeError) {
    return { name: "RunError", kind: "trap", message: `The runtime stopped: ${message}` };
  }
  return { name, kind: kind ?? "unknown", message };
}

/** The reverse of {@link toWire}: a throwable error of the right class. */
export function fromWire(wire: WireError): LensletError | DOMException {
  if (wire.name === "AbortError") {
    return abortError(wire.message);
  }
  return new CLASSES[wire.name](wire.kind, wire.message);
}

/** The error of a cancelled call, as the platform's own functions throw it. */
export function abortError(message = "The operation was aborted"): DOMException {
  return new DOMException(message, "AbortError");
}

/** Throws if `signal` has been cancelled, always with an `AbortError`, whatever the caller's reason was. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw abortError();
  }
}
