// An engine.io-client. Arguments: its folder, and options as JSON. Prints one JSON line at its end.
"use strict";

const [folder, text] = process.argv.slice(2);
const asked = JSON.parse(text);
const client = require(folder);
const connect = client.Socket && client.protocol === 4 ? (url, opts) => new client.Socket(url, opts) : client;

const socket = connect(asked.url, { path: asked.path, transports: asked.transports, ...asked.options });
socket.binaryType = "arraybuffer";

const got = [];
const told = { transports: [], reason: null, order: true, binary: 0, beats: 0, upgraded: false };
let sent = 0;

function send() {
  for (let count = 0; count < asked.burst && sent < asked.messages; count += 1, sent += 1) {
    if (sent % 5 === 4) socket.send(new Uint8Array([sent >> 8, sent & 255]).buffer);
    else socket.send(`message ${sent} é🎉`);
  }
  if (sent < asked.messages) setTimeout(send, asked.pause);
}

socket.on("open", () => {
  told.transports.push(socket.transport.name);
  send();
});
socket.on("upgrade", (transport) => {
  told.upgraded = true;
  told.transports.push(transport.name);
});
socket.on("message", (data) => {
  const number = got.length;
  if (typeof data === "string") {
    told.order = told.order && data === `message ${number} é🎉`;
  } else {
    const bytes = new Uint8Array(data);
    told.binary += 1;
    told.order = told.order && bytes.length === 2 && bytes[0] * 256 + bytes[1] === number;
  }
  got.push(number);
});
// After a heartbeat nothing else is on its way: what a server that has closed receives late would be a reset.
socket.on("pong", () => {
  if (got.length === asked.messages && (told.beats += 1) === asked.beats) socket.send("end");
});
socket.on("close", (reason) => {
  told.reason = reason;
  told.got = got.length;
  process.stdout.write(JSON.stringify(told));
});
socket.on("error", (error) => process.stderr.write(String(error && error.stack)));
setTimeout(() => process.exit(3), 20000).unref();
