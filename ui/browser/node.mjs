/** `openstream dev --ephemeral` and, where wanted, a second node beside it: started, asked for the link, ended by their own pids. */

import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const READY_MS = 90_000;

/** Two ports in a row that nobody listens on. */
async function freePorts() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 20_000);
    if ((await isFree(port)) && (await isFree(port + 1))) return port;
  }
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

export async function startNodes(nodes = 2) {
  const port = await freePorts();
  const words = ["dev", "--ephemeral", "--port", String(port)];
  const environment = {
    ...process.env,
    OPENSTREAM_GRAFANA_URL: "http://127.0.0.1:3001",
    OPENSTREAM_LEASE_MS: "1500",
    COLUMNS: "2000",
  };
  const child = spawn(`${ROOT}.venv/bin/openstream`, words, { cwd: ROOT, env: environment });
  let said = "";
  child.stdout.on("data", (data) => (said += data));
  child.stderr.on("data", (data) => (said += data));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const gone = ended.then((code) => {
    throw new Error(`openstream dev ended with ${code}:\n${said.slice(-3000)}`);
  });
  gone.catch(() => {}); // only while it is waited for
  // As the banner says one more node is started; not `--nodes 2`, which ends everything when one of them does.
  let second = null;
  const link = await Promise.race([until(() => /http:\S+\/#token=\S+/.exec(said)?.[0], READY_MS), gone]);
  const url = link.split("/#")[0];
  if (nodes === 2) {
    const file = (await Promise.race([until(() => /set -a; \. (\S+); set \+a/.exec(said), READY_MS), gone]))[1];
    const script = `set -a; . "$0"; set +a; exec "$1" node --port ${port + 1}`;
    second = spawn("/bin/sh", ["-c", script, file, `${ROOT}.venv/bin/openstream`], {
      cwd: ROOT,
      env: { ...environment, OPENSTREAM_LOG_FORMAT: "json" },
      stdio: "ignore",
    });
    await until(async () => (await fetch(`http://127.0.0.1:${port + 1}/readyz`).catch(() => null))?.ok, READY_MS);
  }
  return {
    url,
    link,
    token: link.split("#token=")[1],
    said: () => said,
    killSecond: () => second.kill("SIGKILL"),
    async stop() {
      second?.kill("SIGKILL");
      child.kill("SIGINT");
      const late = sleep(20_000, "late");
      if ((await Promise.race([ended, late])) === "late") child.kill("SIGKILL");
    },
  };
}

/** Wait until it gives something; an error that says what did not come. */
export async function until(ask, withinMs = 20_000) {
  const ends = Date.now() + withinMs;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (Date.now() > ends) throw new Error(`not within ${withinMs} ms: ${ask}`);
    await sleep(50);
  }
}

/** The API, as a program uses it. */
export function apiOf(node) {
  async function call(method, path, body) {
    const answer = await fetch(node.url + path, {
      method,
      headers: { Authorization: `Bearer ${node.token}`, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }
  return {
    call,
    get: (path) => call("GET", path),
    post: (path, body) => call("POST", path, body),
    put: (path, body) => call("PUT", path, body),
    patch: (path, body) => call("PATCH", path, body),
    /** The link that signs in as somebody else. */
    async linkFor(role) {
      const wish = { sub: `a ${role}`, role, admin_secret: "dev-admin-secret" };
      return `${node.url}/#token=${(await call("POST", "/v1/auth/token", wish)).token}`;
    },
    produce: (topic, events) => call("POST", `/v1/topics/${topic}/events`, { events }),
  };
}
