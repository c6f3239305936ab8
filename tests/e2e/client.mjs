// The README's session with Node's `ws`: connects to argv[2], says what it hears as JSON lines.
import { createRequire } from "node:module";
const WebSocket = createRequire(import.meta.url)(process.argv[3]);
const say = (event) => console.log(JSON.stringify(event));
const socket = new WebSocket(process.argv[2]);
socket.on("open", () => {
  socket.send(JSON.stringify({ topics: ["cats", "dogs"] }));
  socket.send("ping");
});
socket.on("message", (data, binary) => say({ message: data.toString(), binary, extensions: socket.extensions }));
socket.on("close", (code, reason) => say({ code, reason: reason.toString() }));
socket.on("error", (error) => say({ error: error.message }));
