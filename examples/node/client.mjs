// Calls the digits example from Node.js: node client.mjs HOST:PORT
// HOST:PORT is the router's gRPC address. Prints one JSON object; exits 1 when a step did not do what it should.
import { fileURLToPath } from 'node:url';
import { readFileSync } from 'node:fs';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const DEADLINE_MS = 20_000;

function load(root, file) {
  const definition = protoLoader.loadSync(file, {
    includeDirs: [here(root)], longs: Number, enums: String, defaults: true, oneofs: true,
  });
  return grpc.loadPackageDefinition(definition);
}

const { DigitService } = load('../digits/proto', 'digits/v1/digits.proto').digits.v1;
const { RouterService } = load('../../proto', 'serve_core/v1/router.proto').serve_core.v1;

const connect = (Service, address) => new Service(address, grpc.credentials.createInsecure());
const deadline = () => ({ deadline: Date.now() + DEADLINE_MS });

/** One unary call as a promise. */
function unary(client, method, request, metadata = new grpc.Metadata()) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, deadline(), (error, response) => (error ? reject(error) : resolve(response)));
  });
}

/** The answers of one bidirectional call, in their order. */
function stream(client, requests) {
  return new Promise((resolve, reject) => {
    const answers = [];
    const call = client.classifyStream(new grpc.Metadata(), deadline());
    call.on('data', (answer) => answers.push(answer));
    call.on('error', reject);
    call.on('end', () => resolve(answers));
    for (const request of requests) call.write(request);
    call.end();
  });
}

/** What a call that must fail failed with. */
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return { code: grpc.status[error.code], details: error.details };
  }
  throw new Error('the call succeeded, but it should have been refused');
}

function withToken(token) {
  const metadata = new grpc.Metadata();
  metadata.set('serve-core-slot', token);
  return metadata;
}

async function main(address) {
  const { images } = JSON.parse(readFileSync(here('images.json'), 'utf8'));
  const digits = connect(DigitService, address);
  const router = connect(RouterService, address);

  const throughRouter = [];
  for (const image of images) throughRouter.push(await unary(digits, 'classify', { pixels: image.pixels }));
  const streamed = await stream(digits, images.map((image, index) => ({ index, pixels: image.pixels })));

  // Reserve, look at the replica, then dispatch straight to it.
  const where = { application: 'digits', ttl: { seconds: 5 } };
  const reserved = await unary(router, 'reserveSlot', where);
  const { slotToken } = reserved.lease;
  const replica = connect(DigitService, reserved.replica.address);
  const direct = await unary(replica, 'classify', { pixels: images[0].pixels }, withToken(slotToken));
  const again = await failure(unary(replica, 'classify', { pixels: images[0].pixels }, withToken(slotToken)));

  // Reserve another and give it back: it is good for nothing afterwards.
  const other = await unary(router, 'reserveSlot', where);
  const released = await unary(router, 'releaseSlot', { slotToken: other.lease.slotToken });
  const releasedTwice = await unary(router, 'releaseSlot', { slotToken: other.lease.slotToken });
  const afterRelease = await failure(
    unary(digits, 'classify', { pixels: images[0].pixels }, withToken(other.lease.slotToken)));

  for (const client of [digits, router, replica]) client.close();
  return {
    labels: images.map((image) => image.label),
    throughRouter: throughRouter.map((answer) => answer.digit),
    streamed: streamed.map((answer) => answer.digit),
    reservedReplica: reserved.replica.replicaId,
    direct: { digit: direct.digit, replicaId: direct.replicaId },
    again,
    released: released.released,
    releasedTwice: releasedTwice.released,
    afterRelease,
  };
}

if (process.argv.length !== 3) {
  console.error('usage: node client.mjs HOST:PORT (the gRPC address of a router that serves the digits example)');
  process.exit(2);
}
try {
  console.log(JSON.stringify(await main(process.argv[2]), null, 2));
} catch (error) {
  console.error(`error: ${error.details ?? error.message}`);
  process.exit(1);
}
