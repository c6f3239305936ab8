// Reads what we wrote: {parser: [messages or body, ...]} on standard input, what each npm parser makes of it out.
"use strict";

const folder = process.argv[2];
const { toPlain, fromPlain } = require("./plain.cjs");
const load = (name) => require(`${folder}/${name}`);

function socket(name, messages) {
  const { Decoder } = load(name);
  const decoder = new Decoder();
  const packets = [];
  decoder.on("decoded", (packet) => packets.push(packet));
  for (const message of messages) decoder.add(message);
  decoder.destroy();
  return packets;
}

function payload3(body) {
  const packets = [];
  load("engine.io-parser-3").decodePayload(body, (packet) => { packets.push(packet); });
  return packets;
}

const readers = {
  engineio4: (body) => load("engine.io-parser").decodePayload(body),
  engineio3: payload3,
  socketio5: (messages) => socket("socket.io-parser", messages),
  socketio4: (messages) => socket("socket.io-parser-4", messages),
  msgpack: (messages) => socket("socket.io-msgpack-parser", messages),
};

const asked = fromPlain(JSON.parse(require("fs").readFileSync(0, "utf8")));
const answer = Object.fromEntries(Object.entries(asked).map(([name, list]) => [name, toPlain(list.map(readers[name]))]));
process.stdout.write(JSON.stringify(answer));
