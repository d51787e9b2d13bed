// A server of the product behind a wire that counts: every connection and byte for it passes here, and it can be killed
// in the middle of an answer.

import { spawn } from "node:child_process";
import { createServer, connect } from "node:net";

/** A free port of this machine; it may be taken again before it is used. */
async function freePort() {
  const probe = createServer();
  const port = await listening(probe);
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

function listening(server) {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(server.address().port));
  });
}

/** The server's program and the wire to it. */
export class RelayedServer {
  /** Connections that were made, and bytes that came over them. */
  connections = 0;
  bytes = 0;
  #process;
  #wire;
  #sockets = new Set();
  #port;
  #killAt;

  /**
   * Starts it and waits until it is ready.
   *
   * @param {string} program
   * @param {string[]} args besides the address
   * @param {Record<string, string>} env
   * @param {number} timeout in milliseconds
   */
  static async start(program, args, env, timeout) {
    const relayed = new RelayedServer();
    relayed.#port = await freePort();
    const listen = ["--listen", `127.0.0.1:${relayed.#port}`];
    relayed.#process = spawn(program, [...args, ...listen], {
      env: { ...process.env, ...env },
      stdio: ["ignore", "ignore", "inherit"],
    });
    let failed;
    relayed.#process.once("error", (error) => {
      failed = error;
    });
    const until = Date.now() + timeout;
    while (!(await relayed.#ready())) {
      if (failed || relayed.#process.exitCode !== null || Date.now() > until) {
        await relayed.stop();
        throw new Error(`${program} did not become ready`, { cause: failed });
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    relayed.#wire = createServer((socket) => relayed.#pass(socket));
    relayed.url = `http://127.0.0.1:${await listening(relayed.#wire)}`;
    return relayed;
  }

  async #ready() {
    const url = `http://127.0.0.1:${this.#port}/v2/health/ready`;
    return await fetch(url).then(
      (answer) => answer.ok,
      () => false,
    );
  }

  #pass(socket) {
    this.connections += 1;
    const server = connect(this.#port, "127.0.0.1");
    for (const end of [socket, server]) {
      this.#sockets.add(end);
      end.on("close", () => {
        this.#sockets.delete(end);
        socket.destroy();
        server.destroy();
      });
      end.on("error", () => end.destroy());
    }
    socket.on("data", (data) => {
      this.bytes += data.length;
      server.write(data);
    });
    let answer = "";
    server.on("data", (data) => {
      if (!this.#killAt) {
        socket.write(data);
        return;
      }
      // The browser gets the answer up to there, and no more of it, ever.
      const before = Buffer.byteLength(answer);
      answer += data.toString("latin1");
      const end = this.#killAt(answer);
      if (end === undefined) {
        socket.write(data);
        return;
      }
      this.#killAt = undefined;
      socket.write(data.subarray(0, Math.max(0, end - before)), () => this.kill());
    });
  }

  /** How many requests under this path the server itself has counted. */
  async counted(path, key) {
    const headers = { authorization: `Bearer ${key}` };
    const answer = await fetch(`http://127.0.0.1:${this.#port}/metrics`, { headers });
    if (!answer.ok) {
      throw new Error(`/metrics answers ${answer.status}`);
    }
    const text = await answer.text();
    const lines = text.split("\n").filter((line) => line.startsWith("lenslet_requests_total") && line.includes(path));
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
  }

  /** Kills the server in the middle of its next text, behind the first piece. */
  killInText() {
    this.#killAt = (answer) => {
      const piece = /"content":"[^"]+"[^\n]*\n\n/.exec(answer);
      return piece ? piece.index + piece[0].length : undefined;
    };
  }

  /** Kills the server, with everything that is under way. */
  kill() {
    this.killed = true;
    this.#process.kill("SIGKILL");
    for (const socket of this.#sockets) {
      socket.resetAndDestroy();
    }
  }

  async stop() {
    this.kill();
    this.#wire?.close();
  }
}
