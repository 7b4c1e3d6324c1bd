// Loaded before a server that listens on every address: it is given 127.0.0.1 wherever it names no other.
// And the server ends with the process that started it: a child in a session of its own would outlive it.
"use strict";
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...others) {
  const number = typeof port === "number" || (typeof port === "string" && /^\d+$/.test(port));
  if (!number) return listen.call(this, port, ...others);
  const host = typeof others[0] === "string" ? others.shift() : "";
  const everywhere = host === "" || host === "0.0.0.0" || host === "::";
  return listen.call(this, Number(port), everywhere ? "127.0.0.1" : host, ...others);
};

const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) process.exit(0);
}, 500).unref();
