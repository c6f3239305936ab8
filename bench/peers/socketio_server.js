// Node `socket.io`, as its documentation says: `node socketio_server.js PORT`.
//
// `m` comes back to its sender, `a` is acknowledged, `b` goes to everybody else.
'use strict';

const { createServer } = require('node:http');
const { Server } = require('socket.io');

const http = createServer();
const io = new Server(http);

io.on('connection', (socket) => {
  socket.on('m', (text) => socket.emit('m', text));
  socket.on('a', (text, acknowledge) => acknowledge(text));
  socket.on('b', (text) => socket.broadcast.emit('m', text));
});

http.listen(Number(process.argv[2]), '127.0.0.1', () => {
  console.log(`listening ${http.address().port}`);
});
