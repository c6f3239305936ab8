// A Socket.IO server of npm with the events of the kitchen-sink app. Arguments: node_modules; prints its port.
"use strict";

const [modules] = process.argv.slice(2);
const { createServer } = require("node:http");
const { Server } = require(`${modules}/socket.io`);

const http = createServer();
const io = new Server(http, {
  pingInterval: 300,
  pingTimeout: 200,
  connectionStateRecovery: { maxDisconnectionDuration: 10000 },
});

function serve(namespace) {
  namespace.on("connection", (socket) => {
    if (!socket.recovered) socket.emit("auth", socket.handshake.auth);
    socket.on("message", (...args) => socket.emit("message-back", ...args));
    socket.on("message-with-ack", (...args) => args.pop()(...args));
    socket.on("join", (room, ack) => (socket.join(room), ack(room)));
    socket.on("room-send", (room, ...args) => namespace.to(room).emit("room-message", room, ...args));
    socket.on("ask-me", async (...args) => {
      const ack = args.pop();
      try {
        ack({ ok: true, answer: await socket.timeout(500).emitWithAck("question", ...args) });
      } catch {
        ack({ ok: false });
      }
    });
    socket.on("whoami", (ack) => ack({ id: socket.id, recovered: socket.recovered }));
    socket.on("binary", () => socket.emit("message-back", Buffer.from("bytes")));
    socket.on("silence", () => {});
    socket.on("drop", () => socket.conn.transport.socket.terminate());
    socket.on("bye", (close) => socket.disconnect(close));
  });
}

for (const name of ["/", "/custom", "/private"]) serve(io.of(name));
io.of("/private").use((socket, next) => {
  if (socket.handshake.auth.token === "secret") return next();
  next(Object.assign(new Error("not authorized"), { data: { code: 401 } }));
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
