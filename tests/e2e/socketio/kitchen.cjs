// The kitchen sink of examples/conformance.py on Node's own server: what the tests here expect is true of it, too.
// Arguments: node_modules, mode, port. Prints its address when it listens.
"use strict";

const [modules, mode, port] = process.argv.slice(2);
const crypto = require("node:crypto");
const { createServer } = require("node:http");
const { Server } = require(`${modules}/socket.io`);

const MODES = {
  base: {},
  official: { pingInterval: 300, pingTimeout: 200, connectTimeout: 1000, allowEIO3: false },
  official3: { pingInterval: 300, pingTimeout: 200, connectTimeout: 1000 },
  recovery: { connectionStateRecovery: { maxDisconnectionDuration: 120000 } },
  msgpack: mode === "msgpack" && { parser: require(`${modules}/socket.io-msgpack-parser`) },
};

const http = createServer();
const io = new Server(http, {
  pingInterval: 1000,
  pingTimeout: 1000,
  allowEIO3: true,
  maxHttpBufferSize: 1e6,
  cors: { origin: /^http:\/\/(127\.0\.0\.1|localhost):/ },
  ...MODES[mode],
});

for (const name of ["/", "/custom", "/private"]) {
  const namespace = io.of(name);
  namespace.on("connection", (socket) => {
    if (!socket.recovered) socket.emit("auth", socket.handshake.auth);
    socket.on("message", (...args) => socket.emit("message-back", ...args));
    socket.on("message-with-ack", (...args) => args.pop()(...args));
    socket.on("join", (room, ack) => (socket.join(room), ack(room)));
    socket.on("leave", (room, ack) => (socket.leave(room), ack(room)));
    socket.on("room-send", (room, ...args) => namespace.to(room).emit("room-message", room, ...args));
    socket.on("room-send-others", (room, ...args) => socket.to(room).emit("room-message", room, ...args));
    socket.on("room-size", async (room, ack) => ack((await namespace.in(room).fetchSockets()).length));
    socket.on("broadcast", (...args) => socket.broadcast.emit("broadcast-message", ...args));
    socket.on("ask-me", (...args) => {
      const ack = args.pop();
      socket.timeout(500).emit("question", ...args, (error, ...answer) => ack(error ? { ok: false } : { ok: true, answer }));
    });
    socket.on("digest", (data, ack) =>
      ack({ length: data.length, sha256: crypto.createHash("sha256").update(data).digest("hex") }),
    );
    socket.on("whoami", (ack) => {
      const rooms = [...socket.rooms].filter((room) => room !== socket.id).sort();
      ack({ id: socket.id, rooms, recovered: socket.recovered });
    });
    socket.on("bye", (close) => socket.disconnect(close));
  });
}

io.of("/private").use((socket, next) => {
  const { token, ...more } = socket.handshake.auth;
  if (token === "secret" && Object.keys(more).length === 0) return next();
  next(Object.assign(new Error("not authorized"), { data: { code: 401 } }));
});

http.listen(Number(port), "127.0.0.1", () => console.log(`http://127.0.0.1:${http.address().port}`));
process.on("SIGTERM", () => process.exit(0));
