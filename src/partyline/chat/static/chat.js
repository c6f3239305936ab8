// @ts-check
/** The page: which of its views the address names, the name one goes by, and the banner of the connection. */

import { $, announce } from "./conversation.js";
import { lasting } from "./kept.js";
import { Room } from "./rooms.js";
import { Strangers } from "./stranger.js";

/** What tells this browser from others of the same name. Others see a hash of it at most. */
function key() {
  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0"));
  const known = lasting.get("key") || random().join("");
  lasting.set("key", known);
  return known;
}

/** @param {string} field @param {string} [text] */
function complain(field, text = "") {
  const line = $(field + "-error");
  line.textContent = text;
  line.hidden = !text;
  if (text) $(field).setAttribute("aria-invalid", "true");
  else $(field).removeAttribute("aria-invalid");
  if (text) $(field).focus();
}

/** @param {import("./partyline.js").Socket} socket @param {AbortSignal} signal */
export function watch(socket, signal) {
  const banner = $("banner");
  const [text, button] = banner.children;
  /** @type {any} */
  let timer;
  let lost = false;
  /** @param {string} words @param {string} [again] what the button says */
  const show = (words, again) => {
    clearTimeout(timer);
    text.textContent = words;
    button.hidden = !again;
    button.textContent = again ?? "";
    banner.hidden = !words;
    banner.classList.toggle("well", !again && !lost);
  };
  /** Said aloud once, however long it lasts and whatever is counted. @param {string} words */
  const lose = (words) => {
    if (!lost) announce(words);
    lost = true;
  };
  const trying = () => show(navigator.onLine ? "Connection lost. Trying again…" : "You are offline", "Try now");
  /** @param {{state: string, reason?: string, delay?: number}} change */
  const tell = ({ state, reason, delay = 0 }) => {
    if (state === "waiting") {
      lose("Connection lost");
      const until = Date.now() + delay;
      const count = () => {
        const left = Math.ceil((until - Date.now()) / 1000);
        if (left > 1 && navigator.onLine) show(`Connection lost. Next try in ${left} s`, "Try now");
        else trying();
        timer = setTimeout(count, 500);
      };
      count();
    } else if (state === "connecting") {
      if (lost) trying();
      else timer = setTimeout(() => show("Connecting…"), 1000);
    } else if (state === "connected") {
      const healed = lost;
      lost = false;
      if (healed) announce("Connected again");
      show(healed ? "Connected again" : "");
      timer = setTimeout(() => show(""), 2500);
    } else if (reason !== "closed here") {
      lose(`The server ended the connection: ${reason}`);
      show(`The server ended the connection: ${reason}`, "Connect again");
    }
  };
  show("");
  socket.addEventListener("state", (event) => !signal.aborted && tell(/** @type {CustomEvent} */ (event).detail));
  tell({ state: socket.state });
  button.addEventListener("click", () => socket.open(), { signal });
  // A browser knows it long before a connection does, which may even survive it.
  window.addEventListener("offline", () => (lose("You are offline"), show("You are offline")), { signal });
  window.addEventListener("online", () => (socket.state === "connected" ? tell(socket) : socket.open()), { signal });
  signal.addEventListener("abort", () => show(""));
}

/** @type {Room | Strangers | null} */
let view = null;

function home(room = "") {
  document.title = "Partyline";
  $("name").value = lasting.get("name");
  $("room").value = room || lasting.get("room");
  for (const field of ["name", "room"]) complain(field);
  ($("name").value ? $("room") : $("name")).focus();
}

/** @param {string} name @param {string} room */
function refuse(name, room) {
  return /** @param {{field?: string, message: string}} error */ (error) => {
    view?.close();
    view = null;
    show("home");
    home(room);
    $("name").value = name;
    complain(error.field === "name" ? "name" : "room", error.message);
  };
}

/** @param {"home" | "rooms" | "stranger"} what */
function show(what) {
  $("home").hidden = what !== "home";
  $("talk").hidden = what === "home";
  $("talk").dataset.view = what;
}

function route() {
  view?.close();
  view = null;
  announce("");
  const [what, rest] = location.hash.slice(1).split(/\/(.*)/s);
  let room = "";
  try {
    room = decodeURIComponent(rest ?? "").trim().replace(/\s+/g, " ");
  } catch {
    // not an address of ours: the home view
  }
  const name = lasting.get("name");
  if (what === "stranger") {
    show("stranger");
    view = new Strangers(key(), watch);
  } else if (what === "room" && room && name) {
    show("rooms");
    view = new Room({ room, name, key: key() }, watch, refuse(name, room));
  } else {
    show("home");
    home(room);
  }
}

$("join").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  const room = $("room").value.trim() || "lobby";
  complain("room");
  complain("name", name ? "" : "Say what the others may call you");
  if (!name) return;
  lasting.set("name", name.toWellFormed());
  lasting.set("room", room.toWellFormed());
  const hash = "#room/" + encodeURIComponent(room.toWellFormed());
  if (location.hash === hash) route();
  else location.hash = hash;
});
// In the place of the talk that one leaves: Back does not lead into it again.
document.querySelector(".back")?.addEventListener("click", (event) => {
  event.preventDefault();
  location.replace("#");
});
window.addEventListener("hashchange", route);
route();
