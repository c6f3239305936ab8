// Socket.IO of Node with its Redis adapter: the events of servers/partyline_cluster.py. `node socketio_cluster.js URL`
"use strict";
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");

async function main() {
  const pub = createClient({ url: process.argv[2] });
  const sub = pub.duplicate();
  await Promise.all([pub.connect(), sub.connect()]);
  const io = new Server({ adapter: createAdapter(pub, sub), perMessageDeflate: false });
  const now = () => Number(process.hrtime.bigint() / 1000n);
  io.on("connection", (socket) => {
    socket.on("join", (done) => done(Boolean(socket.join("lobby")) || true));
    socket.on("flow", async (count, rate, together, done) => {
      const began = now();
      for (let number = 0; number < count; number++) {
        if (number % together === 0) {
          const wait = (began + (number / rate) * 1e6 - now()) / 1000;
          await new Promise((go) => (wait > 0 ? setTimeout(go, wait) : setImmediate(go)));
        }
        io.to("lobby").emit("m", now());
      }
      done(count);
    });
    socket.on("who", async (done) => done((await io.fetchSockets()).length));
  });
  io.listen(0);
  io.httpServer.on("listening", () => console.log("listening", io.httpServer.address().port));
}

process.on("SIGTERM", () => process.exit(0));
main();
