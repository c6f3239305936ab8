// What partyline.js promises, as cases of Node's test runner. The environment: MODULES (of npm), CLIENT (the file),
// SERVER (the address of a kitchen-sink server).
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { test } from "node:test";

const { MODULES, CLIENT, SERVER } = process.env;
const { WebSocket, WebSocketServer } = createRequire(import.meta.url)(`${MODULES}/ws`);
const { Socket } = await import(CLIENT);

/** Dials and remembers, so that a test can cut the wire. */
class Wire extends WebSocket {
  static all = [];
  constructor(...args) {
    super(...args);
    Wire.all.push(this);
  }
  static cut() {
    Wire.all.at(-1).terminate();
  }
}

const open = (t, namespace, options) => {
  const socket = new Socket(namespace, { url: `${SERVER}/socket.io/`, base: 20, WebSocket: Wire, ...options });
  t.after(() => socket.close());
  return socket;
};

/** The next change to that state. */
const turned = (socket, state) =>
  new Promise((resolve) => {
    socket.addEventListener("state", function hear({ detail }) {
      if (detail.state !== state) return;
      socket.removeEventListener("state", hear);
      resolve(detail);
    });
  });

const heard = (socket, event) =>
  new Promise((resolve) => {
    const off = socket.on(event, (...args) => (off(), resolve(args)));
  });

/** A bare WebSocket server that treats its guests as told; the URL of its path. */
async function host(t, treat) {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  t.after(() => (server.clients.forEach((guest) => guest.terminate()), server.close()));
  server.on("connection", treat);
  await new Promise((resolve) => server.on("listening", resolve));
  return `http://127.0.0.1:${server.address().port}/socket.io/`;
}
const OPEN = (pingInterval, pingTimeout) => "0" + JSON.stringify({ sid: "s", upgrades: [], pingInterval, pingTimeout });

test("events go both ways in each namespace", async (t) => {
  const ids = new Set();
  for (const name of ["/", "/custom"]) {
    const socket = open(t, name);
    assert.equal(socket.state, "connecting");
    await turned(socket, "connected");
    const args = [1, "two, [three", { four: [null, "\u2028é🎉"] }, "/custom,"];
    const back = heard(socket, "message-back");
    assert.equal(socket.emit("message", ...args), true);
    assert.deepEqual((await back).slice(0, 4), args);
    assert.deepEqual(await socket.call("whoami"), { id: socket.id, recovered: false });
    ids.add(socket.id);
  }
  assert.equal(ids.size, 2);
});

test("it lives on past the server's heartbeats", async (t) => {
  const socket = open(t);
  await turned(socket, "connected");
  const lost = turned(socket, "waiting").then(() => assert.fail("lost"));
  await Promise.race([lost, new Promise((resolve) => setTimeout(resolve, 1200))]);
  assert.equal((await socket.call("whoami")).id, socket.id);
});

test("auth is an object, or a function asked at each connect", async (t) => {
  let asked = 0;
  const socket = open(t, "/custom", { auth: async () => ({ time: ++asked }) });
  assert.equal((await heard(socket, "auth"))[0].time, 1);
  const closed = turned(socket, "closed");
  socket.close();
  await closed;
  socket.open();
  assert.equal((await heard(socket, "auth"))[0].time, 2);
  const failing = open(t, "/", { auth: () => Promise.reject(new Error("no token")) });
  assert.equal((await turned(failing, "refused")).reason, "Error: no token");
});

test("answers come both ways", async (t) => {
  const socket = open(t);
  await turned(socket, "connected");
  const values = [1, "two", { three: [3] }];
  assert.deepEqual(await Promise.all(values.map((value) => socket.call("message-with-ack", value))), values);
  const off = socket.on("question", async (a, b) => a + b);
  socket.on("question", () => "too late");
  assert.deepEqual(await socket.call("ask-me", 20, 22), { ok: true, answer: 42 });
  off();
  assert.deepEqual(await socket.call("ask-me", 20, 22), { ok: true, answer: "too late" });
});

test("a call without an answer fails with a code", async (t) => {
  const socket = open(t, "/", { timeout: 60 });
  await assert.rejects(socket.call("silence"), { code: "not_connected" });
  assert.equal(socket.emit("silence"), false);
  await turned(socket, "connected");
  await assert.rejects(socket.call("silence"), { code: "timeout" });
  const call = assert.rejects(socket.call("silence"), { code: "lost" });
  Wire.cut();
  await call;
  await turned(socket, "connected");
  const last = assert.rejects(socket.call("silence"), { code: "lost" });
  socket.close();
  await last;
});

test("a refusal says why, and is final until open()", async (t) => {
  const auth = {};
  const socket = open(t, "/private", { auth });
  const refused = await turned(socket, "refused");
  assert.deepEqual(refused, { state: "refused", reason: "not authorized", data: { code: 401 } });
  auth.token = "secret";
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(socket.state, "refused");
  socket.open();
  await turned(socket, "connected");
  assert.equal((await turned(open(t, "/nowhere"), "refused")).reason, "Invalid namespace");
  assert.throws(() => new Socket("nowhere"), /namespace nowhere: /);
});

test("whom the server disconnects stays away until open()", async (t) => {
  const socket = open(t);
  await turned(socket, "connected");
  const { id } = socket;
  for (const all of [false, true]) {
    const closed = turned(socket, all ? "waiting" : "closed");
    socket.emit("bye", all);
    await Promise.race([closed, turned(socket, "closed")]);
    if (socket.state === "closed") socket.open();
    await turned(socket, "connected");
  }
  assert.notEqual(socket.id, id);
});

test("what was missed comes once and in order, and the id stays", async (t) => {
  const socket = open(t, "/custom", { base: 400, random: () => 1 });
  const other = open(t, "/custom");
  await Promise.all([turned(socket, "connected"), turned(other, "connected")]);
  await socket.call("join", "den");
  const got = [];
  socket.on("room-message", (room, number) => got.push(number));
  const first = heard(socket, "room-message");
  other.emit("room-send", "den", 0);
  await first;
  for (const round of [1, 2]) {
    const { id } = socket;
    const waiting = turned(socket, "waiting");
    socket.emit("drop");
    await waiting;
    for (const n of [1, 2, 3]) other.emit("room-send", "den", (round - 1) * 3 + n);
    await other.call("whoami");
    await turned(socket, "connected");
    assert.equal(socket.recovered, true);
    assert.equal(socket.id, id);
    assert.deepEqual(got, Array.from({ length: 1 + round * 3 }, (_, n) => n));
    const live = heard(socket, "message-back");
    socket.emit("message", "live");
    await live;
  }
  socket.close();
  socket.open();
  await turned(socket, "connected");
  assert.equal(socket.recovered, false);
});

test("delays are random up to a bound that doubles up to the cap", async (t) => {
  const dead = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => dead.once("listening", resolve));
  const url = `http://127.0.0.1:${dead.address().port}/socket.io/`;
  await new Promise((resolve) => dead.close(resolve));
  const delays = async (random) => {
    const socket = open(t, "/", { url, base: 4, cap: 20, random });
    const found = [];
    while (found.length < 5) found.push((await turned(socket, "waiting")).delay);
    socket.close();
    return found;
  };
  assert.deepEqual(await delays(() => 1), [4, 8, 16, 20, 20]);
  assert.deepEqual(await delays(() => 0.25), [1, 2, 4, 5, 5]);
  const bounds = [4, 8, 16, 20, 20];
  const [some, others] = [await delays(Math.random), await delays(Math.random)];
  some.forEach((delay, n) => assert.ok(delay >= 0 && delay <= bounds[n]));
  assert.notDeepEqual(some, others);
});

test("a server that falls silent counts as gone", async (t) => {
  let guests = 0;
  const url = await host(t, (guest) => {
    guests += 1;
    guest.send(OPEN(40, 40));
    guest.on("message", (data) => String(data).startsWith("40") && guest.send('40{"sid":"x"}'));
  });
  const socket = open(t, "/", { url });
  await turned(socket, "connected");
  const start = Date.now();
  assert.equal((await turned(socket, "waiting")).reason, "timeout");
  assert.ok(Date.now() - start >= 60);
  await turned(socket, "connected");
  assert.equal(guests, 2);
});

test("a server that never speaks counts as gone", async (t) => {
  const socket = open(t, "/", { url: await host(t, () => {}), timeout: 50 });
  assert.equal((await turned(socket, "waiting")).reason, "timeout");
});

test("close codes say whether to come back", async (t) => {
  const back = [1006, 1011, 1012, 1013, 4008].map((code) => [code, "waiting"]);
  const away = [4000, 4001, 4401, 4403].map((code) => [code, "closed"]);
  for (const [code, state] of [...back, ...away]) {
    const url = await host(t, (guest) => (code === 1006 ? guest.terminate() : guest.close(code, "because")));
    const socket = open(t, "/", { url, base: 5000 });
    const change = await Promise.race([turned(socket, "waiting"), turned(socket, "closed")]);
    assert.equal(change.state, state, code);
    if (code !== 1006) assert.equal(change.reason, "because");
    socket.close();
  }
});

test("an Engine.IO close and garbage are lost connections, not errors", async (t) => {
  for (const garbage of ["1", "0{", "0null", "40null", "42{}", "42nope", "43"]) {
    const url = await host(t, (guest) => (guest.send(OPEN(25_000, 20_000)), guest.send(garbage)));
    const socket = open(t, "/", { url, base: 5000 });
    if (garbage === "43") await new Promise((resolve) => setTimeout(resolve, 50));
    else {
      const { reason } = await turned(socket, "waiting");
      assert.equal(reason, garbage === "1" ? "closed by the server" : "parse error", garbage);
    }
    socket.close();
  }
});

test("a listener that throws costs itself only, and one taken away hears nothing", async (t) => {
  const socket = open(t);
  const errors = t.mock.method(console, "error", () => {});
  await turned(socket, "connected");
  const got = [];
  socket.on("message-back", () => {
    throw new Error("mine");
  });
  const off = socket.on("message-back", () => got.push("gone"));
  socket.on("message-back", () => got.push("here"));
  off();
  const back = heard(socket, "message-back");
  socket.emit("message");
  await back;
  assert.deepEqual(got, ["here"]);
  assert.equal(errors.mock.callCount(), 1);
});

test("binary events are passed over", async (t) => {
  const socket = open(t);
  await turned(socket, "connected");
  const back = heard(socket, "message-back");
  socket.emit("binary");
  socket.emit("message", "text");
  assert.equal((await back)[0], "text");
});

test("open() goes at once instead of waiting, on one connection", async (t) => {
  const socket = open(t, "/", { base: 30_000, random: () => 1 });
  await turned(socket, "connected");
  const waiting = turned(socket, "waiting");
  Wire.cut();
  assert.equal((await waiting).delay, 30_000);
  const before = Wire.all.length;
  socket.open();
  socket.open();
  await turned(socket, "connected");
  socket.open();
  assert.equal(Wire.all.length, before + 1);
});
