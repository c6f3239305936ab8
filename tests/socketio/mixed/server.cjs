// A Socket.IO server of Node in a cluster. `node server.cjs <node_modules> <form> <redis port> <options as JSON>`
// prints {"port": n}; then each line on standard input is a call, and its outcome a line on standard output.

"use strict";
const path = require("path");
const [folder, form, port, options] = process.argv.slice(2);
const load = (name) => require(path.join(folder, name));
const { Server } = load("socket.io");
const { createClient, createCluster } = load("redis");

const say = (line) => process.stdout.write(JSON.stringify(line, (_, value) => {
  if (value && value.type === "Buffer") return { $bytes: Buffer.from(value.data).toString("hex") };
  return value;
}) + "\n");
const revive = (_, value) => (value && value.$bytes !== undefined ? Buffer.from(value.$bytes, "hex") : value);

async function adapter(settings) {
  const pub = settings.cluster
    ? createCluster({ rootNodes: settings.cluster.map((one) => ({ url: `redis://127.0.0.1:${one}` })) })
    : createClient({ url: `redis://127.0.0.1:${port}`, ...(settings.client || {}) });
  const sub = pub.duplicate();
  for (const client of [pub, sub]) {
    client.on("error", () => {});
    await client.connect();
  }
  if (form === "classic") return load("@socket.io/redis-adapter").createAdapter(pub, sub, settings.adapter);
  if (form === "sharded") return load("@socket.io/redis-adapter").createShardedAdapter(pub, sub, settings.adapter);
  return load("@socket.io/redis-streams-adapter").createAdapter(pub, settings.adapter);
}

async function main() {
  const settings = JSON.parse(options || "{}");
  const io = new Server({ adapter: await adapter(settings), ...(settings.server || {}) });
  const emitter = form === "classic" && !settings.cluster ? new (load("@socket.io/redis-emitter").Emitter)(
    await createClient({ url: `redis://127.0.0.1:${port}` }).connect()) : null;
  const told = [];
  for (const name of ["/", "/chat"]) {
    const nsp = io.of(name);
    nsp.on("connection", (socket) => {
      socket.data.name = socket.handshake.auth.name;
      socket.join(socket.handshake.auth.rooms || []);
      socket.on("pass on", (...values) => socket.broadcast.emit(...values));
      socket.emit("state", { recovered: socket.recovered, rooms: [...socket.rooms].sort() });
    });
    nsp.on("nothing", () => {});
    nsp.on("tell", (...values) => told.push(values));
    nsp.on("ask", (...values) => {
      const answer = values.pop();
      answer({ node: values });
    });
  }
  const calls = {
    emit: (to, { event, args }) => to.emit(event, ...args),
    volatile: (to, { event, args }) => to.volatile.emit(event, ...args),
    ask: (to, { event, args, timeout }) => to.timeout(timeout).emitWithAck(event, ...args),
    fetch: async (to) => (await to.fetchSockets()).map(({ id, rooms, data, handshake }) => (
      { id, rooms: [...rooms].sort(), data, handshake })),
    join: (to, { rooms }) => to.socketsJoin(rooms),
    leave: (to, { rooms }) => to.socketsLeave(rooms),
    disconnect: (to, { close }) => to.disconnectSockets(close),
    tell: (to, { args, nsp }) => io.of(nsp || "/").serverSideEmit("tell", ...args),
    serverAsk: (to, { args, nsp }) => io.of(nsp || "/").serverSideEmitWithAck("ask", ...args),
    told: () => told.splice(0),
    count: (to, { nsp }) => io.of(nsp || "/").adapter.serverCount(),
    allRooms: async () => [...(await io.of("/").adapter.allRooms())].sort(),
    local: (to, { event, args }) => to.local.emit(event, ...args),
    localFetch: async (to) => (await to.local.fetchSockets()).map(({ id }) => id),
    remoteAsk: async (to, { event, args, timeout }) => Promise.all((await to.fetchSockets()).map((one) => (
      one.timeout(timeout).emitWithAck(event, ...args)))),
    remoteMove: async (to, { into, out }) => (await to.fetchSockets()).forEach((one) => {
      one.join(into);
      one.leave(out);
    }),
    remoteDisconnect: async (to) => (await to.fetchSockets()).forEach((one) => one.disconnect()),
    remoteEmit: async (to, { event, args }) => (await to.fetchSockets()).forEach((one) => one.emit(event, ...args)),
    emitter: (to, { how, nsp, rooms, except, args }) => {
      const from = emitter.of(nsp || "/").in(rooms).except(except);
      if (how === "volatile") return from.volatile.emit(...args);
      return how === "serverSideEmit" ? emitter.of(nsp || "/").serverSideEmit(...args) : from[how](...args);
    },
  };
  require("readline").createInterface({ input: process.stdin }).on("line", async (line) => {
    const { id, call, ...rest } = JSON.parse(line, revive);
    try {
      let to = io.of(rest.nsp || "/");
      if (rest.to && rest.to.length) to = to.to(rest.to);
      if (rest.except && rest.except.length) to = to.except(rest.except);
      const result = await calls[call](to, rest);
      say({ id, result: call === "emit" || call === "emitter" || result === undefined ? null : result });
    } catch (error) {
      say({ id, error: String(error), responses: error.responses });
    }
  }).on("close", () => process.exit(0));
  io.httpServer || io.listen(0, { transports: ["websocket"] });
  io.httpServer.on("listening", () => say({ port: io.httpServer.address().port }));
}

main();
