import type { Plugin } from "vite";

/**
 * What the built page may do: load its own files and run its own wasm, nothing else; speak to the servers that
 * `LENSLET_SERVER` names when it is built, in the form of the policy's sources. Not while developing, when Vite's
 * own client injects styles and opens a socket.
 */
const policy = (servers: string): string =>
  [
    "default-src 'none'",
    "script-src 'self' 'wasm-unsafe-eval'",
    "worker-src 'self'",
    `connect-src ${["'self'", ...servers.split(/\s+/)].filter(Boolean).join(" ")}`,
    "img-src 'self' blob:",
    "style-src 'self'",
    "font-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");

/** Writes the policy into the built page, before anything that it governs. */
export function contentSecurityPolicy(): Plugin {
  return {
    name: "lenslet:csp",
    apply: "build",
    transformIndexHtml: () => [
      {
        tag: "meta",
        attrs: {
          "http-equiv": "Content-Security-Policy",
          content: policy(process.env.LENSLET_SERVER ?? ""),
        },
        injectTo: "head-prepend",
      },
    ],
  };
}
