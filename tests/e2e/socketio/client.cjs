// socket.io-client of one version. Arguments: node_modules, the package, and options as JSON. Runs every scenario over
// each way at once, and prints one JSON object: by way and scenario what was seen, or {"failed": why}.
"use strict";

const [modules, name, text] = process.argv.slice(2);
const asked = JSON.parse(text);
const crypto = require("node:crypto");
const io = require(`${modules}/${name}`);
const old = name === "socket.io-client-2";

const options = { forceNew: true, reconnection: false, timeout: 5000 };
if (asked.parser) options.parser = require(`${modules}/${asked.parser}`);

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

// The transports that a client may use, and what it sends over them.
class Way {
  constructor(name, { transports, sizes }) {
    this.name = name;
    this.transports = transports;
    this.sizes = sizes;
  }

  connect(namespace, auth, more = {}) {
    const query = old && auth ? "?" + new URLSearchParams(auth) : "";
    const also = { ...options, transports: this.transports, ...(old ? {} : { auth }), ...more };
    return io(asked.url + namespace + query, also);
  }

  async entered(namespace = "/", auth, more) {
    const socket = this.connect(namespace, auth, more);
    const heard = event(socket, "auth");
    if (this.transports.length > 1) {
      await event(socket, "connect");
      if (engine(socket).transport.name !== "websocket") {
        await within("upgrade", (done) => engine(socket).once("upgrade", done));
      }
    }
    socket.heard = (await heard)[0];
    return socket;
  }
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

const revived = (key, value) => (typeof value?.bytes === "string" ? Buffer.from(value.bytes, "hex") : value);

const scenarios = {
  async auth(way) {
    const [main, custom] = [await way.entered("/", { a: "1" }), await way.entered("/custom", { token: "x" })];
    return { main: main.heard, custom: custom.heard, transport: engine(main).transport.name };
  },
  async refused(way) {
    const [[error], [unknown]] = [
      await refusal(way.connect("/private", { token: "bad" })),
      await refusal(way.connect("/nowhere")),
    ];
    const socket = old ? null : await way.entered("/private", { token: "secret" });
    return {
      message: error.message ?? error,
      data: error.data,
      unknown: unknown.message ?? unknown,
      let_in: socket && socket.connected,
    };
  },
  async echo(way) {
    const socket = await way.entered();
    const back = event(socket, "message-back");
    socket.emit("message", 1, "2", { three: [4, { five: Buffer.from([1, 2]) }] }, Buffer.from("é"), null, "é🎉");
    return plain(await back);
  },
  async acknowledgements(way) {
    const socket = await way.entered();
    const values = await ask(socket, "message-with-ack", 1, { deep: [Buffer.from("hi")] });
    socket.on("question", (...values) => values.pop()(...values));
    const answered = [await ask(socket, "ask-me", 7), await ask(socket, "ask-me", 7, 8)];
    socket.off("question");
    return { values: plain(values), answered, silent: await ask(socket, "ask-me", 9) };
  },
  async digests(way) {
    const socket = await way.entered();
    const right = [];
    for (const size of way.sizes) {
      const data = crypto.randomBytes(size);
      const [told] = await ask(socket, "digest", data);
      right.push(told.length === size && told.sha256 === crypto.createHash("sha256").update(data).digest("hex"));
    }
    const big = crypto.randomBytes(way.sizes.at(-1));
    const back = event(socket, "message-back");
    socket.emit("message", { at: [{ depth: big }] });
    right.push(Buffer.from((await back)[0].at[0].depth).equals(big));
    return right;
  },
  async rooms(way) {
    const [one, two, out] = [await way.entered(), await way.entered(), await way.entered()];
    const room = `room of ${way.name} in ${process.pid}`; // one of an earlier process may not be known to be gone yet
    const heard = [];
    for (const [index, socket] of [one, two, out].entries()) {
      socket.on("room-message", (name, value) => heard.push([index, name === room, value]));
      socket.on("broadcast-message", (name, value) => name === room && heard.push([index, "broadcast", value]));
    }
    await ask(one, "join", room);
    await ask(two, "join", room);
    const before = await ask(one, "room-size", room);
    one.emit("room-send", room, "all");
    one.emit("room-send-others", room, "others");
    one.emit("broadcast", room, "everybody else");
    for (const socket of [one, two, out]) await ask(socket, "whoami");
    const [who] = await ask(two, "whoami");
    await ask(two, "leave", room);
    const sizes = [...before, ...(await ask(one, "room-size", room))];
    return { heard: heard.sort(), sizes, own: String(who.rooms) === room };
  },
  async ends(way) {
    const [one, two] = [await way.entered("/", undefined, { forceNew: true }), await way.entered()];
    const [first, second] = [event(one, "disconnect"), event(two, "disconnect")];
    one.emit("bye", false);
    two.emit("bye", true);
    const reasons = [(await first)[0], (await second)[0]];
    const three = await way.entered();
    const third = event(three, "disconnect");
    three.disconnect();
    reasons.push((await third)[0]);
    return reasons;
  },
  async silence(way) {
    // A client whose heartbeat stops: the server ends the connection on time.
    // Its clock began between these two.
    const before = Date.now();
    const socket = await way.entered();
    const after = Date.now();
    const transport = engine(socket);
    const end = event(socket, "disconnect");
    if (old) {
      transport.ping = () => {};
      transport.off("heartbeat"); // it does not give up either
      clearTimeout(transport.pingIntervalTimer);
      clearTimeout(transport.pingTimeoutTimer);
    } else {
      const name = transport._sendPacket ? "_sendPacket" : "sendPacket";
      const send = transport[name].bind(transport);
      transport[name] = (type, ...rest) => (type === "pong" ? undefined : send(type, ...rest));
    }
    const [reason] = await end;
    return { least: Date.now() - after, most: Date.now() - before, reason };
  },
  async reconnection(way) {
    const socket = await way.entered("/", { a: "1" }, { reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 50 });
    const again = event(socket, "auth");
    engine(socket).close();
    return { auth: (await again)[0], connected: socket.connected };
  },
  async order(way) {
    // Sent from the first moment on: the upgrade comes in the midst of it.
    const socket = way.connect("/");
    const upgraded = way.transports.length > 1 && within("upgrade", (done) => engine(socket).once("upgrade", done));
    const back = [];
    socket.on("message-back", (number, ...more) => back.push([number, ...more.map((bytes) => Buffer.from(bytes).length)]));
    await event(socket, "connect");
    const [count, every] = [400, 7];
    for (let number = 0; number < count; number += 1) {
      if (number % 20 === 19) await new Promise((done) => setTimeout(done, 1));
      socket.emit("message", number, ...(number % every ? [] : [Buffer.alloc(number), Buffer.alloc(3)]));
    }
    await upgraded;
    await ask(socket, "whoami");
    const wanted = (number) => String(number % every ? [number] : [number, number, 3]);
    return { came: back.length, wrong: back.filter((got, number) => String(got) !== wanted(number)).slice(0, 5) };
  },
  async namespaces(way) {
    // Two over one connection: the end of one is not the other's.
    const manager = new io.Manager(asked.url, { ...options, transports: way.transports });
    const [main, custom] = [manager.socket("/"), manager.socket("/custom")];
    await Promise.all([event(main, "auth"), event(custom, "auth")]);
    const ends = [];
    for (const socket of [main, custom]) socket.on("disconnect", (reason) => ends.push([socket.nsp, reason]));
    custom.emit("bye", false);
    await event(custom, "disconnect");
    const still = await ask(main, "message-with-ack", "still");
    custom.connect();
    await event(custom, "auth");
    const public_ids = old || ![main.id, custom.id].includes(engine(main).id); // version 2 makes them up from it
    custom.emit("bye", true);
    await event(main, "disconnect");
    return { still, public_ids, ends };
  },
  async volatile(way) {
    // Nothing is in its way, so it is sent.
    const socket = await way.entered();
    while (!engine(socket).transport.writable) await new Promise(setImmediate);
    const back = event(socket, "message-back");
    socket.volatile.emit("message", "now", Buffer.from([7]));
    return plain(await back);
  },
  async impatience(way) {
    // The client's own timeout comes first; the late acknowledgement is nobody's, and the next one is right.
    const socket = await way.entered();
    const began = Date.now();
    const [error] = await within("timeout", (done) => socket.timeout(100).emit("ask-me", 1, done));
    const took = Date.now() - began;
    await within("end of the question", (done) => setTimeout(done, 600));
    const late = await socket.timeout(1000).emitWithAck("message-with-ack", "next");
    return { error: error.message, took, late };
  },
};

// Told what to do line by line, instead: {"do": "connect" | "emit" | "ask" | "drop" | "leave" | "return", ...}.
async function obey(way) {
  let socket;
  const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
  for await (const line of require("node:readline").createInterface({ input: process.stdin })) {
    const told = JSON.parse(line, revived);
    if (told.do === "connect") {
      const more = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 100, randomizationFactor: 0.2 };
      socket = way.connect(told.namespace ?? "/", told.auth, more);
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
    } else if (told.do === "leave") {
      socket.io.reconnection(false); // until it is told to return
      engine(socket).close();
    } else if (told.do === "return") {
      socket.io.reconnection(true);
      socket.connect();
    }
  }
}

async function seen(run, way) {
  try {
    return await run(way);
  } catch (error) {
    return { failed: String(error.stack ?? error) };
  }
}

async function main() {
  if (!asked.scenarios) return obey(new Way("told", asked));
  const told = {};
  const runs = Object.entries(asked.ways).flatMap(([name, rules]) => {
    const way = new Way(name, rules);
    told[name] = {};
    return asked.scenarios.map(async (what) => (told[name][what] = await seen(scenarios[what], way)));
  });
  await Promise.all(runs);
  process.stdout.write(JSON.stringify(told) + "\n", () => process.exit(0));
}

main();
