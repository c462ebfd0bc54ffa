// A host of mesh-policy.wasm in Node, for tests: JSON lines in, JSON lines out.
//
//   node mesh.mjs <module made by jco transpile> <agent host:port>
//
// The guest's HTTP goes to a relay in this process, which is what a host must be: it lets
// exactly four requests through, adds the token (CONSUL_HTTP_TOKEN) and follows no redirect.
// The relay runs in a thread of its own, because calls into the guest block this one.
import { createServer, request } from 'node:http';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';

const allowed = new Set([
  'GET /v1/agent/connect/ca/roots',
  'GET /v1/connect/intentions/match',
  'GET /v1/peerings',
  'POST /v1/agent/connect/authorize',
]);
const parameters = new Set(['by', 'name', 'index', 'wait', 'consistent']);

function relay({ agent, token }) {
  const [host, port] = agent.split(':');
  const seen = [];
  const server = createServer((incoming, outgoing) => {
    const [path, query] = incoming.url.split('?', 2);
    seen.push(`${incoming.method} ${path}`);
    const strange = [...new URLSearchParams(query).keys()].some((key) => !parameters.has(key));
    const secret = 'x-consul-token' in incoming.headers || 'authorization' in incoming.headers;
    if (!allowed.has(`${incoming.method} ${path}`) || strange || secret) {
      seen.push('REFUSED');
      outgoing.writeHead(403).end('the relay does not let this through');
      return;
    }
    const headers = { 'content-type': 'application/json' };
    if (token) headers['x-consul-token'] = token;
    const options = { host, port, method: incoming.method, path: incoming.url, headers };
    const onward = request(options, (reply) => {
      outgoing.writeHead(reply.statusCode, reply.headers);
      reply.pipe(outgoing);
    });
    // A dead agent is a dead connection, not an answer.
    onward.on('error', () => outgoing.destroy());
    outgoing.on('close', () => onward.destroy());
    incoming.pipe(onward);
  });
  server.listen(0, '127.0.0.1', () => parentPort.postMessage({ port: server.address().port }));
  parentPort.on('message', () => parentPort.postMessage({ seen: seen.splice(0) }));
}

async function main([module, agentAddress]) {
  const { agent, decisions } = await import(pathToFileURL(module));
  const token = process.env.CONSUL_HTTP_TOKEN;
  const worker = new Worker(new URL(import.meta.url), { workerData: { agent: agentAddress, token } });
  const next = () => new Promise((resolve) => worker.once('message', resolve));
  const authority = `127.0.0.1:${(await next()).port}`;

  const caught = (call) => {
    try {
      return { ok: call() ?? null };
    } catch (error) {
      if (error.payload === undefined) throw error;
      return { err: error.payload };
    }
  };
  const request = (path) => (path === undefined ? undefined : {
    version: 'http1',
    method: Buffer.from('GET'),
    path: Buffer.from(path),
    authority: undefined,
    scheme: undefined,
    headers: new Uint8Array(),
  });
  const commands = {
    configure: (settings) => caught(() => agent.configure({
      authority,
      tls: false,
      datacenter: undefined,
      mode: settings.mode,
      defaultPolicy: settings.default_policy,
      envoyMatching: false,
      maxStale: BigInt(settings.max_stale),
      fetchTimeout: settings.fetch_timeout,
    })),
    authorize: ({ target, uris, path, now }) =>
      decisions.authorize(target, { uris, viaGateway: undefined }, request(path), BigInt(now)),
    explain: ({ target, uris, path, now }) =>
      decisions.explain(target, { uris, viaGateway: undefined }, request(path), BigInt(now)),
    verify: ({ chain, usage, now }) => caught(() =>
      decisions.verifyPeer(chain.map((der) => Buffer.from(der, 'base64')), usage, undefined, BigInt(now))),
    status: () => agent.status(),
    poll: () => { agent.poll(); return null; },
    requests: async () => { worker.postMessage('seen'); return (await next()).seen; },
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, argument] = JSON.parse(line);
    const answer = await commands[name](argument);
    const number = (_, value) => (typeof value === 'bigint' ? Number(value) : value);
    process.stdout.write(`${JSON.stringify(answer, number)}\n`);
  }
  process.exit(0);
}

if (isMainThread) await main(process.argv.slice(2));
else relay(workerData);
