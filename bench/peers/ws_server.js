// Node `ws`, as its README says: `node ws_server.js echo|broadcast PORT`.
//
// perMessageDeflate is off, which is its default. `bufferutil` (opt-in there)
// is not installed.
'use strict';

const { WebSocketServer, WebSocket } = require('ws');

const [mode, port] = process.argv.slice(2);
const wss = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(port),
  perMessageDeflate: false,
});

function echo(ws) {
  ws.on('message', (data, isBinary) => {
    ws.send(data, { binary: isBinary });
  });
}

function broadcast(ws) {
  ws.on('message', (data, isBinary) => {
    wss.clients.forEach((client) => {
      if (client !== ws && client.readyState === WebSocket.OPEN) {
        client.send(data, { binary: isBinary });
      }
    });
  });
}

wss.on('connection', (ws) => {
  ws.on('error', console.error);
  (mode === 'broadcast' ? broadcast : echo)(ws);
});

wss.on('listening', () => {
  console.log(`listening ${wss.address().port}`);
});
