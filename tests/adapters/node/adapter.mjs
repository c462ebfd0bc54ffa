// Runs policy.wasm, made into a module by `jco transpile --instantiation sync`, for tests:
// JSON lines in, JSON lines out.
//
//   node adapter.mjs <module> < plans.ndjson > answers.ndjson
//
// A line is {"id", "calls": [[function, argument...]...]}; each line gets an instance of its
// own. Integers are written as text, bytes as base64, options as null, results as {"ok"} or
// {"err"}, other variants as {case: payload}; records have the names of the WIT.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const camel = (name) => name.replace(/-([a-z])/g, (_, letter) => letter.toUpperCase());
const kebab = (name) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'));
const option = (value, lower) => (value === null || value === undefined ? undefined : lower(value));
const same = (value) => value;

const client = (value) => ({ uris: value.uris, viaGateway: option(value['via-gateway'], bytes) });
const request = (value) => ({
  version: value.version,
  method: bytes(value.method),
  path: bytes(value.path),
  authority: option(value.authority, bytes),
  scheme: option(value.scheme, same),
  headers: bytes(value.headers),
});
const document = (value) => ({
  name: value.name,
  body: option(value.body, bytes),
  confirmedAt: BigInt(value['confirmed-at']),
});
const decision = (value) => ({
  effect: value.effect,
  code: value.code,
  intention: option(value.intention, Number),
  permission: option(value.permission, Number),
  generation: BigInt(value.generation),
  path: option(value.path, bytes),
  headers: value.headers.map((change) => ({ name: change.name, value: option(change.value, bytes) })),
});
const question = [same, client, (value) => option(value, request), BigInt];
// How the arguments of each function are lowered.
const functions = {
  load: [BigInt, (list) => list.map(document)],
  touch: [same, BigInt],
  authorize: question,
  explain: question,
  'verify-peer': [(chain) => chain.map(bytes), same, (value) => option(value, same), BigInt],
  'needed-headers': [same],
  describe: [same, decision],
  'parse-id': [same],
};
const fallible = new Set(['verify-peer', 'parse-id']);

function lift(value) {
  if (value === undefined || value === null) return null;
  if (typeof value === 'bigint' || typeof value === 'number') return value.toString();
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(lift);
  if (typeof value !== 'object') return value;
  if ('tag' in value) return { [value.tag]: lift(value.val) };
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [kebab(name), lift(field)]));
}

function call(decisions, [name, ...given]) {
  const lowered = functions[name].map((lower, index) => lower(given[index]));
  if (!fallible.has(name)) return lift(decisions[camel(name)](...lowered));
  try {
    return { ok: lift(decisions[camel(name)](...lowered)) };
  } catch (error) {
    if (error.payload === undefined) throw error;
    return { err: lift(error.payload) };
  }
}

async function main([module]) {
  const { instantiate } = await import(pathToFileURL(module));
  const cores = new Map();
  const core = (path) => {
    if (!cores.has(path)) cores.set(path, new WebAssembly.Module(readFileSync(join(dirname(module), path))));
    return cores.get(path);
  };
  const trap = (name) => () => {
    throw new Error(`${name} is not given`);
  };
  // The seed for hash maps is all that a policy is given.
  const seed = () => [randomBytes(8).readBigUInt64LE(), randomBytes(8).readBigUInt64LE()];
  const interfaces = {
    'wasi:random/insecure-seed': { insecureSeed: seed },
    'wasi:cli/environment': { getEnvironment: trap('environment') },
    'wasi:cli/exit': { exit: trap('exit') },
    'wasi:cli/stdin': { getStdin: trap('stdin') },
    'wasi:cli/stdout': { getStdout: trap('stdout') },
    'wasi:cli/stderr': { getStderr: trap('stderr') },
    'wasi:cli/terminal-input': { TerminalInput: class {} },
    'wasi:cli/terminal-output': { TerminalOutput: class {} },
    'wasi:cli/terminal-stdin': { getTerminalStdin: trap('terminal') },
    'wasi:cli/terminal-stdout': { getTerminalStdout: trap('terminal') },
    'wasi:cli/terminal-stderr': { getTerminalStderr: trap('terminal') },
    'wasi:io/error': { Error: class {} },
    'wasi:io/poll': { Pollable: class {}, poll: trap('poll') },
    'wasi:io/streams': { InputStream: class {}, OutputStream: class {} },
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const plan = JSON.parse(line);
    const exports = instantiate(core, interfaces);
    const decisions = exports.decisions;
    const answers = plan.calls.map((each) => call(decisions, each));
    process.stdout.write(`${JSON.stringify({ id: plan.id, answers })}\n`);
  }
}

await main(process.argv.slice(2));
