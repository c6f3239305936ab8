// What the npm parsers write. Prints {name: {versions, ...}}; `python -m tests.vectors` stores each as a file.
"use strict";

const folder = process.argv[2];
const { toPlain, version } = require("./plain.cjs");
const load = (name) => require(`${folder}/${name}`);

const bytes = (...values) => Buffer.from(values);
const all = Buffer.from(Array.from({ length: 256 }, (_, at) => at));

const texts = ["", "hello", "é", "日本語", "🎉 party", "line\nfeed\r\n\\n\\\\n", "\u2028 \u2029", "\0 nul", "12:34", "b64", "x".repeat(300)];
const datas = [bytes(), bytes(1, 2, 3), bytes(4), bytes(255, 254, 0), all];

function engine4() {
  const parser = load("engine.io-parser");
  const packets = [
    { type: "open", data: '{"sid":"abc"}' }, { type: "close" }, { type: "ping" }, { type: "ping", data: "probe" },
    { type: "pong" }, { type: "pong", data: "probe" }, { type: "upgrade" }, { type: "noop" },
    ...texts.map((data) => ({ type: "message", data })), ...datas.map((data) => ({ type: "message", data })),
  ];
  const encode = (packet, binary) => { let out; parser.encodePacket(packet, binary, (it) => { out = it; }); return out; };
  const payload = (list) => { let out; parser.encodePayload(list, (it) => { out = it; }); return out; };
  const lists = [
    ...packets.map((packet) => [packet]),
    packets,
    [{ type: "message", data: "a" }, { type: "message", data: bytes(1, 2) }, { type: "message", data: "🎉" }],
  ];
  return {
    versions: { "engine.io-parser": version(folder, "engine.io-parser") },
    packets: packets.map((packet) => ({ packet: toPlain(packet), websocket: toPlain(encode(packet, true)) })),
    payloads: lists.map((list) => ({ packets: toPlain(list), body: payload(list) })),
  };
}

function engine3() {
  const parser = load("engine.io-parser-3");
  const packets = [
    { type: "close" }, { type: "ping" }, { type: "ping", data: "probe" }, { type: "pong" }, { type: "upgrade" }, { type: "noop" },
    ...texts.map((data) => ({ type: "message", data })), ...datas.map((data) => ({ type: "message", data })),
  ];
  const encode = (packet) => { let out; parser.encodePacket(packet, true, false, (it) => { out = it; }); return out; };
  const payload = (list, binary) => { let out; parser.encodePayload(list, binary, (it) => { out = it; }); return out; };
  const lists = [
    ...packets.map((packet) => [packet]),
    packets,
    [{ type: "message", data: "日本" }, { type: "message", data: bytes(1, 2) }, { type: "message", data: "🎉" }],
    [{ type: "message", data: "🎉" }, { type: "message", data: "a🎉b" }, { type: "noop" }],
  ];
  return {
    versions: { "engine.io-parser": version(folder, "engine.io-parser-3") },
    packets: packets.map((packet) => ({ packet: toPlain(packet), websocket: toPlain(encode(packet)) })),
    payloads: lists.flatMap((list) => [
      { packets: toPlain(list), base64: true, body: toPlain(payload(list, false)) },
      { packets: toPlain(list), base64: false, body: toPlain(payload(list, true)) },
    ]),
  };
}

const argumentLists = [
  [], [1], ["a", "b"], [null], [true, false], [1.5, -1, 0, 2147483648, 9007199254740991], ["é 日本 🎉"], ['"quoted" \\ \n \u2028'],
  [{}], [[]], [{ a: { b: [1, { c: "d" }] } }], ["x".repeat(300)], [Array.from({ length: 20 }, (_, at) => at)],
];
const binaryLists = [
  [bytes(1, 2, 3)], [bytes()], [{ a: bytes(1), b: [bytes(2), "x", { c: bytes(3) }] }, "y", bytes(4)], [all, 5], [[[bytes(9)]]],
];

function events(types) {
  const packets = [];
  for (const nsp of ["/", "/admin", "/a/b-c"]) {
    for (const id of [undefined, 0, 13, 9007199254740991]) {
      for (const list of nsp === "/" ? argumentLists : argumentLists.slice(0, 3)) {
        packets.push({ type: types.event, nsp, id, data: ["say", ...list] });
        if (id !== undefined) packets.push({ type: types.ack, nsp, id, data: list });
      }
      for (const list of nsp === "/" ? binaryLists : binaryLists.slice(0, 1)) {
        packets.push({ type: types.binaryEvent, nsp, id, data: ["say", ...list] });
        if (id !== undefined) packets.push({ type: types.binaryAck, nsp, id, data: list });
      }
    }
  }
  packets.push({ type: types.event, nsp: "/", data: ["odd \" name \\ é 🎉", 1] });
  return packets;
}

const without = (packet) => Object.fromEntries(Object.entries(packet).filter(([, value]) => value !== undefined));

function socket5() {
  const { Encoder } = load("socket.io-parser");
  const packets = [
    { type: 0, nsp: "/" }, { type: 0, nsp: "/", data: { token: "é" } }, { type: 0, nsp: "/admin" }, { type: 0, nsp: "/admin", data: { sid: "abc" } },
    { type: 0, nsp: "/", data: { sid: "abc", pid: "def" } }, { type: 1, nsp: "/" }, { type: 1, nsp: "/admin" },
    { type: 4, nsp: "/", data: { message: "no" } }, { type: 4, nsp: "/admin", data: { message: "no", data: { code: 401 } } },
    ...events({ event: 2, ack: 3, binaryEvent: 2, binaryAck: 3 }),
  ].map(without);
  return {
    versions: { "socket.io-parser": version(folder, "socket.io-parser") },
    packets: packets.map((packet) => ({ packet: toPlain(packet), messages: toPlain(new Encoder().encode(structuredClone(packet))) })),
  };
}

function socket4() {
  const { Encoder } = load("socket.io-parser-4");
  const packets = [
    { type: 0, nsp: "/" }, { type: 0, nsp: "/admin" }, { type: 0, nsp: "/admin?token=a%20b&x=1" }, { type: 1, nsp: "/" }, { type: 1, nsp: "/admin" },
    { type: 4, nsp: "/admin", data: "Invalid namespace" },
    ...events({ event: 2, ack: 3, binaryEvent: 5, binaryAck: 6 }),
  ].map(without);
  const encode = (packet) => { let out; new Encoder().encode(packet, (it) => { out = it; }); return out; };
  return {
    versions: { "socket.io-parser": version(folder, "socket.io-parser-4") },
    packets: packets.map((packet) => ({ packet: toPlain(packet), messages: toPlain(encode({ ...packet })) })),
  };
}

function msgpack() {
  const { Encoder } = load("socket.io-msgpack-parser");
  const dates = [new Date(0), new Date(1700000000123), new Date(-1)];
  const buffers = [new ArrayBuffer(1), new ArrayBuffer(8), new Uint8Array([0, 0, 0, 1, 2, 3, 4, 5]).buffer, new ArrayBuffer(300), new Uint8Array([7]).buffer];
  const packets = [
    { type: 0, nsp: "/" }, { type: 0, nsp: "/", data: undefined }, { type: 0, nsp: "/", data: { token: "é" } }, { type: 0, nsp: "/", data: { sid: "abc" } },
    { type: 1, nsp: "/" }, { type: 1, nsp: "/admin", data: undefined }, { type: 4, nsp: "/admin", data: { message: "no", data: { code: 401 } } },
    ...events({ event: 2, ack: 3, binaryEvent: 2, binaryAck: 3 }),
    ...dates.map((date) => ({ type: 2, nsp: "/", data: ["say", date, { date }] })),
    ...buffers.map((buffer) => ({ type: 2, nsp: "/", data: ["say", buffer, [buffer], undefined] })),
    { type: 2, nsp: "/", data: ["say", undefined, { a: undefined }], options: { compress: true }, id: 1 },
    { type: 2, nsp: "/", data: ["say", ...dates, ...buffers, 1.5, -1, -40, -300, -70000, -5e9, 200, 300, 70000, 5e9, true, null, "x".repeat(300), all, Object.fromEntries(Array.from({ length: 20 }, (_, at) => [`k${at}`, at]))] },
  ];
  return {
    versions: { "socket.io-msgpack-parser": version(folder, "socket.io-msgpack-parser"), "notepack.io": version(folder, "notepack.io") },
    packets: packets.map((packet) => ({ packet: toPlain(packet), messages: toPlain(new Encoder().encode(packet)) })),
  };
}

process.stdout.write(JSON.stringify({ engineio4: engine4(), engineio3: engine3(), socketio5: socket5(), socketio4: socket4(), msgpack: msgpack() }));
