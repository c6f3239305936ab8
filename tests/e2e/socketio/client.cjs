// socket.io-client of one version. Arguments: node_modules, the package, and options as JSON. Runs every scenario and
// prints one JSON object: what each has seen, or {"failed": why}.
"use strict";

const [modules, name, text] = process.argv.slice(2);
const asked = JSON.parse(text);
const crypto = require("node:crypto");
const io = require(`${modules}/${name}`);
const old = name === "socket.io-client-2";

const options = { transports: asked.transports, forceNew: true, reconnection: false, timeout: 5000 };
if (asked.parser) options.parser = require(`${modules}/${asked.parser}`);

const open = [];

function connect(namespace, auth, more = {}) {
  const query = old && auth ? "?" + new URLSearchParams(auth) : "";
  const socket = io(asked.url + namespace + query, { ...options, ...(old ? {} : { auth }), ...more });
  open.push(socket);
  return socket;
}

function within(what, start) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${what} did not come`)), 6000);
    start((...values) => (clearTimeout(timer), resolve(values)));
  });
}

const event = (socket, what) => within(what, (done) => socket.once(what, done));
const ask = (socket, what, ...values) => within(`acknowledgement of ${what}`, (done) => socket.emit(what, ...values, done));
const refusal = (socket) => event(socket, old ? "error" : "connect_error");
const engine = (socket) => socket.io.engine;

async function entered(namespace = "/", auth, more) {
  const socket = connect(namespace, auth, more);
  const heard = event(socket, "auth");
  if (asked.transports.length > 1) {
    await event(socket, "connect");
    if (engine(socket).transport.name !== "websocket") await within("upgrade", (done) => engine(socket).once("upgrade", done));
  }
  socket.heard = (await heard)[0];
  return socket;
}

const plain = (value) => {
  if (Buffer.isBuffer(value) || value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    return { bytes: Buffer.from(value).toString("hex") };
  }
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one)]));
  }
  return value;
};

const scenarios = {
  async auth() {
    const [main, custom] = [await entered("/", { a: "1" }), await entered("/custom", { token: "x" })];
    return { main: main.heard, custom: custom.heard, transport: engine(main).transport.name };
  },
  async refused() {
    const [[error], [unknown]] = [
      await refusal(connect("/private", { token: "bad" })),
      await refusal(connect("/nowhere")),
    ];
    const socket = old ? null : await entered("/private", { token: "secret" });
    return {
      message: error.message ?? error,
      data: error.data,
      unknown: unknown.message ?? unknown,
      let_in: socket && socket.connected,
    };
  },
  async echo() {
    const socket = await entered();
    const back = event(socket, "message-back");
    socket.emit("message", 1, "2", { three: [4, { five: Buffer.from([1, 2]) }] }, Buffer.from("é"), null, "é🎉");
    return plain(await back);
  },
  async acknowledgements() {
    const socket = await entered();
    const values = await ask(socket, "message-with-ack", 1, { deep: [Buffer.from("hi")] });
    socket.on("question", (...values) => values.pop()(...values));
    const answered = [await ask(socket, "ask-me", 7), await ask(socket, "ask-me", 7, 8)];
    socket.off("question");
    return { values: plain(values), answered, silent: await ask(socket, "ask-me", 9) };
  },
  async digests() {
    const socket = await entered();
    const right = [];
    for (const size of asked.sizes) {
      const data = crypto.randomBytes(size);
      const [told] = await ask(socket, "digest", data);
      right.push(told.length === size && told.sha256 === crypto.createHash("sha256").update(data).digest("hex"));
    }
    const big = crypto.randomBytes(asked.sizes.at(-1));
    const back = event(socket, "message-back");
    socket.emit("message", { at: [{ depth: big }] });
    right.push(Buffer.from((await back)[0].at[0].depth).equals(big));
    return right;
  },
  async rooms() {
    const [one, two, out] = [await entered(), await entered(), await entered()];
    const heard = [];
    for (const [index, socket] of [one, two, out].entries()) {
      socket.on("room-message", (room, ...values) => heard.push([index, room, ...values]));
      socket.on("broadcast-message", (...values) => heard.push([index, "broadcast", ...values]));
    }
    await ask(one, "join", "r");
    await ask(two, "join", "r");
    const before = await ask(one, "room-size", "r");
    one.emit("room-send", "r", "all");
    one.emit("room-send-others", "r", "others");
    one.emit("broadcast", "everybody else");
    for (const socket of [one, two, out]) await ask(socket, "whoami");
    const [who] = await ask(two, "whoami");
    await ask(two, "leave", "r");
    return { heard: heard.sort(), sizes: [...before, ...(await ask(one, "room-size", "r"))], rooms: who.rooms };
  },
  async ends() {
    const [one, two] = [await entered("/", undefined, { forceNew: true }), await entered()];
    const [first, second] = [event(one, "disconnect"), event(two, "disconnect")];
    one.emit("bye", false);
    two.emit("bye", true);
    const reasons = [(await first)[0], (await second)[0]];
    const three = await entered();
    const third = event(three, "disconnect");
    three.disconnect();
    reasons.push((await third)[0]);
    return reasons;
  },
  async silence() {
    // A client whose heartbeat stops: the server ends the connection on time.
    const socket = await entered();
    const began = Date.now();
    const transport = engine(socket);
    const end = within("end", (done) => (socket.once("disconnect", done), transport.once("close", done)));
    if (old) {
      transport.ping = () => {};
      clearTimeout(transport.pingIntervalTimer);
    } else {
      const name = transport._sendPacket ? "_sendPacket" : "sendPacket";
      const send = transport[name].bind(transport);
      transport[name] = (type, ...rest) => (type === "pong" ? undefined : send(type, ...rest));
    }
    await end;
    return Date.now() - began;
  },
  async reconnection() {
    const socket = await entered("/", { a: "1" }, { reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 50 });
    const again = event(socket, "auth");
    engine(socket).close();
    return { auth: (await again)[0], connected: socket.connected };
  },
};

// Told what to do line by line, instead: {"do": "connect" | "emit" | "ask" | "drop" | "state", ...}.
async function obey() {
  let socket;
  const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
  for await (const line of require("node:readline").createInterface({ input: process.stdin })) {
    const told = JSON.parse(line);
    if (told.do === "connect") {
      const more = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 100, randomizationFactor: 0.2 };
      socket = connect("/", told.auth, more);
      socket.on("connect", () => say({ connected: socket.id, recovered: socket.recovered ?? null }));
      socket.on("disconnect", (reason) => say({ disconnected: reason }));
      for (const name of ["message-back", "room-message", "broadcast-message"]) {
        // With recovery the last argument is the position.
        socket.on(name, (...values) => say({ event: name, values: plain(values) }));
      }
    } else if (told.do === "emit") {
      socket.emit(...told.values);
    } else if (told.do === "ask") {
      say({ answer: plain(await ask(socket, ...told.values)) });
    } else if (told.do === "drop") {
      engine(socket).close(); // as if the network were gone: no DISCONNECT
    }
  }
}

async function main() {
  if (!asked.scenarios) return obey();
  const told = {};
  await Promise.all(
    Object.entries(scenarios)
      .filter(([what]) => asked.scenarios.includes(what))
      .map(async ([what, run]) => {
        try {
          told[what] = await run();
        } catch (error) {
          told[what] = { failed: String(error.stack ?? error) };
        }
      }),
  );
  process.stdout.write(JSON.stringify(told) + "\n", () => process.exit(0));
}

main();
