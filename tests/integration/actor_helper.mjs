// A child process of a replica that calls the deployment's actor by itself: node actor_helper.mjs PROTO PACKAGE
// PROTO describes the actor's service Adder. Reads requests and writes answers, each one line of JSON.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

// The example's packages are there for every test that needs Node.js.
const require = createRequire(new URL('../../examples/node/package.json', import.meta.url));
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const DEADLINE_MS = 60_000;
const [proto, namespace] = process.argv.slice(2);
const { Adder } = namespace.split('.').reduce(
  (found, name) => found[name], grpc.loadPackageDefinition(protoLoader.loadSync(proto, { longs: Number, defaults: true })));

/** Everything that the service can do, with what each call must carry. */
async function ask({ address, metadata, values }) {
  const client = new Adder(address, grpc.credentials.createInsecure());
  const carried = Object.entries(metadata).reduce((all, [key, value]) => (all.set(key, value), all), new grpc.Metadata());
  const options = () => ({ deadline: Date.now() + DEADLINE_MS });
  const last = { value: values.at(-1) };

  const answer = (begin) => new Promise((resolve, reject) => {
    begin((error, response) => (error ? reject(error) : resolve(response.value)));
  });
  const answers = (call) => new Promise((resolve, reject) => {
    const found = [];
    call.on('data', ({ value }) => found.push(value));
    call.on('error', reject);
    call.on('end', () => resolve(found));
  });
  const send = (call) => {
    for (const value of values) call.write({ value });
    call.end();
    return call;
  };

  try {
    return {
      one: await answer((done) => client.one(last, carried, options(), done)),
      split: await answers(client.split(last, carried, options())),
      sum: await answer((done) => send(client.sum(carried, options(), done))),
      each: await answers(send(client.each(carried, options()))),
    };
  } catch (error) {
    const [details] = error.metadata?.get('grpc-status-details-bin') ?? [];
    return { code: grpc.status[error.code], reason: details?.toString('latin1').match(/ACTOR_[A-Z]+/)?.[0] };
  } finally {
    client.close();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await ask(JSON.parse(line))));
}
