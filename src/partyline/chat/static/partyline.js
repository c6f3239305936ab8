// @ts-check
/**
 * Socket.IO protocol 5 over WebSocket, for pages. Text only. docs/reference/partyline-js.md
 *
 * @typedef {"connecting" | "connected" | "waiting" | "refused" | "closed"} State
 *   `waiting`: lost, tries again by itself. `refused`, `closed`: until `open()`
 * @typedef {{state: State, reason?: string, delay?: number, data?: any}} Change
 *   `detail` of a "state" event. `delay`: ms to the next try; `data`: what a refusal brought
 * @typedef {object} Options
 * @property {string} [url] of the Engine.IO path, by default `socket.io/` beside this file
 * @property {object | (() => object | Promise<object>)} [auth] for CONNECT; a function is asked each time
 * @property {number} [base] ms, bound of the first delay, doubled each time
 * @property {number} [cap] ms, bound of all
 * @property {number} [timeout] ms for connecting, and for a call
 * @property {() => number} [random] 0 to 1
 * @property {any} [WebSocket]
 */

const FINAL = [4000, 4001, 4401, 4403]; // close codes that mean it
const MESSAGE = /^4([0-4])(?:(\/[^,]*),?)?(\d*)(.*)$/s; // type, namespace, ack id, JSON

/** A namespace, on a WebSocket of its own that comes back. Changes of `state` are "state" events. */
export class Socket extends EventTarget {
  /** @type {State} */
  state = "closed";
  /** its id on the server */
  id = "";
  /** whether the last connect brought what was missed */
  recovered = false;
  /** @type {?WebSocket} */
  #ws = null;
  #listeners = new Map();
  #calls = new Map();
  #ids = 0;
  #failures = 0;
  #since = 0;
  #patience = 0; // ms
  /** @type {any} to the next try, or to giving up */
  #timer;
  /** @type {{pid?: string, offset?: string}} for recovery */
  #past = {};

  /** Opens. @param {string} namespace @param {Options} options */
  constructor(namespace = "/", options = {}) {
    super();
    if (!/^\/[^,?]*$/.test(namespace)) throw new TypeError(`namespace ${namespace}: write it as /name`);
    this.namespace = namespace;
    const { WebSocket } = globalThis;
    this.options = { base: 1000, cap: 30_000, timeout: 10_000, random: Math.random, WebSocket, ...options };
    const url = new URL(options.url ?? "socket.io/", import.meta.url);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = "EIO=4&transport=websocket";
    this.url = url.href;
    this.open();
  }

  /** Connect: now instead of waiting, or anew. */
  open() {
    if (!this.#ws) this.#dial();
  }

  /** Leave. */
  close() {
    this.#send(1);
    this.#end("closed", "closed here");
  }

  /**
   * Hear an event. What it returns (a promise too) answers the server, if it asked.
   * @param {string} event @param {(...args: any[]) => any} listener @returns what takes it away again
   */
  on(event, listener) {
    const all = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, all.add(listener));
    return () => all.delete(listener);
  }

  /** Send now or never: whether it was connected. @param {string} event @param {any[]} args JSON */
  emit(event, ...args) {
    return this.#send(2, [event, ...args]);
  }

  /**
   * Await the answer. Errors have a `code`: "not_connected" (never sent), "lost", "timeout" (perhaps handled).
   * @param {string} event @param {any[]} args JSON @returns {Promise<any>}
   */
  call(event, ...args) {
    return new Promise((resolve, reject) => {
      const id = this.#ids++;
      const timer = setTimeout(() => this.#settle(id, "timeout"), this.options.timeout);
      this.#calls.set(id, { resolve, reject, timer });
      if (!this.#send(2, [event, ...args], id)) this.#settle(id, "not_connected");
    });
  }

  /** @param {number} id @param {any} failure @param {any} [answer] */
  #settle(id, failure, answer) {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    clearTimeout(call?.timer);
    if (failure) call?.reject(Object.assign(new Error("no answer: " + failure), { code: failure }));
    else call?.resolve(answer);
  }

  #dial() {
    /** @type {WebSocket} */
    const ws = (this.#ws = new this.options.WebSocket(this.url));
    this.#since = Date.now();
    this.#expect(this.options.timeout);
    ws.onerror = () => {}; // a close follows
    ws.onclose = ({ code, reason }) => ws === this.#ws && this.#lost(reason || "closed " + code, code);
    ws.onmessage = ({ data }) => {
      if (ws !== this.#ws || typeof data !== "string") return;
      try {
        this.#receive(data);
      } catch {
        this.#lost("parse error");
      }
    };
    this.#become("connecting");
  }

  /** @param {number} ms */
  #expect(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost("timeout"), ms);
  }

  /** @param {string} packet */
  #receive(packet) {
    if (packet[0] === "0") {
      const { pingInterval, pingTimeout } = JSON.parse(packet.slice(1));
      this.#expect((this.#patience = pingInterval + pingTimeout));
      this.#greet();
    } else if (packet[0] === "2") {
      this.#ws?.send("3");
      this.#expect(this.#patience);
    } else if (packet[0] === "1") this.#lost("closed by the server");
    const [, type, to = "/", id, json] = MESSAGE.exec(packet) ?? [];
    if (!type || to !== this.namespace) return;
    const data = json && JSON.parse(json);
    if (type === "0") {
      this.recovered = !!data.pid && data.pid === this.#past.pid;
      if (!this.recovered) this.#past = { pid: data.pid };
      this.id = data.sid;
      this.#become("connected");
    } else if (type === "1") this.#end("closed", "ended by the server");
    else if (type === "2") this.#hear(data, id);
    else if (type === "3") this.#settle(+id, null, data[0]);
    else this.#end("refused", data.message, data.data);
  }

  async #greet() {
    const { auth } = this.options;
    const ws = this.#ws;
    try {
      const fields = typeof auth === "function" ? await auth() : auth;
      if (ws === this.#ws) this.#send(0, { ...fields, ...this.#past });
    } catch (error) {
      if (ws === this.#ws) this.#end("refused", String(error));
    }
  }

  /** @param {any[]} event @param {string} id */
  #hear([event, ...args], id) {
    if (this.#past.pid && !id && typeof args.at(-1) === "string") this.#past.offset = args.at(-1);
    let answer;
    for (const listener of this.#listeners.get(event) ?? []) {
      try {
        const said = listener(...args);
        answer ??= said;
      } catch (error) {
        console.error(error);
      }
    }
    if (id) Promise.resolve(answer).then((value) => this.#send(3, [value], id), console.error);
  }

  /** @param {number} type @param {any} [data] @param {string | number} [id] */
  #send(type, data, id = "") {
    if (this.#ws?.readyState !== 1 || (type && this.state !== "connected")) return false;
    const to = this.namespace === "/" ? "" : this.namespace + ",";
    this.#ws.send(`4${type}${to}${id}${data ? JSON.stringify(data) : ""}`);
    return true;
  }

  /** @param {string} reason @param {number} [code] */
  #lost(reason, code = 0) {
    const { base, cap, random } = this.options;
    if (FINAL.includes(code)) return this.#end("closed", reason);
    this.#drop();
    if (Date.now() - this.#since > 10_000) this.#failures = 0;
    const delay = random() * Math.min(cap, base * 2 ** this.#failures++); // full jitter
    this.#timer = setTimeout(() => this.#dial(), delay);
    this.#become("waiting", { reason, delay });
  }

  /** @param {State} state @param {string} reason @param {any} [data] */
  #end(state, reason, data) {
    this.#drop();
    this.#past = {};
    this.#become(state, { reason, data });
  }

  #drop() {
    const ws = this.#ws;
    this.#ws = null;
    clearTimeout(this.#timer);
    for (const id of this.#calls.keys()) this.#settle(id, "lost");
    ws?.close();
  }

  /** @param {State} state @param {object} [more] */
  #become(state, more) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, ...more } }));
  }
}
