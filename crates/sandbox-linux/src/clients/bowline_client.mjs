// Runs a Node.js handler against the Lambda Runtime API.
//
// The process is started without code: it loads what handlers commonly need and blocks on file
// descriptor 3 until one line of JSON names the environment and the handler. From there on it behaves as
// the official client does. Answers and the request for the next event share one write, so that the
// platform can answer both with one.

import { Buffer } from 'node:buffer';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import { finished, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import { format } from 'node:util';
import process from 'node:process';

const CONTROL_FD = 3;
const TASK_ROOT = '/var/task';
const PRELOADED = ['assert', 'async_hooks', 'child_process', 'crypto', 'events', 'http', 'https', 'os', 'perf_hooks',
  'querystring', 'string_decoder', 'timers', 'tls', 'url', 'worker_threads', 'zlib'];
const REHEARSALS = 20;
const EXIT_UNHANDLED_REJECTION = 128;
const EXIT_UNCAUGHT_EXCEPTION = 129;

class Fault extends Error {
  constructor(name, message, cause) {
    super(message);
    this.name = name;
    if (cause?.stack) this.stack = `${name}: ${message}\n${cause.stack.split('\n').slice(1).join('\n')}`.trimEnd();
  }
}

/** A connection to the Runtime API that speaks just enough HTTP/1.1. */
class RuntimeApi {
  constructor(address, whenClosed) {
    const [, host, port, base] = /^([^:/]+)(?::(\d+))?(\/.*)?$/.exec(address);
    this.prefix = `${(base ?? '').replace(/\/$/, '')}/2018-06-01/runtime/`;
    this.tail = ` HTTP/1.1\r\nHost: ${address}\r\n`;
    this.nextRequest = `GET ${this.prefix}invocation/next${this.tail}\r\n`;
    this.waiting = [];
    this.received = null;
    this.socket = net.connect({ host, port: Number(port ?? 80), noDelay: true });
    this.socket.on('data', (data) => this.take(data));
    this.socket.on('error', whenClosed);
    this.socket.on('close', whenClosed);
  }

  /** Sends `data` in one write and gives the next response that is not yet spoken for. */
  receive() {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.deliver();
    });
  }

  /** The head of an answer whose body follows in chunks. */
  streamHead(id, contentType) {
    return `POST ${this.prefix}invocation/${id}/response${this.tail}Content-Type: ${contentType}\r\n`
      + 'Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n'
      + 'Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n';
  }

  /** Writes `data` and calls back once the socket takes more; until then the process has work. */
  push(data, done) {
    if (this.socket.write(data)) {
      done();
      return;
    }
    this.socket.ref();
    this.socket.once('drain', () => {
      this.socket.unref();
      done();
    });
  }

  post(route, body, headers) {
    const head = `POST ${this.prefix}${route}${this.tail}Content-Type: application/json\r\n`
      + `Content-Length: ${Buffer.byteLength(body)}\r\n${headers}\r\n`;
    return typeof body === 'string' ? head + body : Buffer.concat([Buffer.from(head, 'latin1'), body]);
  }

  send(request, another = '') {
    if (typeof request === 'string') this.socket.write(request + another, 'utf8');
    else this.socket.write(Buffer.concat([request, Buffer.from(another)]));
  }

  take(data) {
    this.received = this.received ? Buffer.concat([this.received, data]) : data;
    this.deliver();
  }

  deliver() {
    while (this.waiting.length > 0 && this.received) {
      const response = this.parse();
      if (!response) return;
      this.waiting.shift()(response);
    }
  }

  parse() {
    const data = this.received;
    const end = data.indexOf('\r\n\r\n');
    if (end < 0) return null;
    const lines = data.latin1Slice(0, end).split('\r\n');
    const headers = {};
    for (let at = 1; at < lines.length; at += 1) {
      const colon = lines[at].indexOf(':');
      headers[lines[at].slice(0, colon).toLowerCase()] = lines[at].slice(colon + 1).trim();
    }
    const until = end + 4 + Number(headers['content-length'] ?? 0);
    if (data.length < until) return null;
    this.received = data.length > until ? data.subarray(until) : null;
    return { status: Number(lines[0].split(' ')[1]), headers, body: data.utf8Slice(end + 4, until) };
  }
}

/** The payload the official client makes of whatever a handler threw. */
function describe(error) {
  if (error instanceof Error || (error && typeof error === 'object' && 'message' in error && 'stack' in error)) {
    return {
      errorType: error.name ?? 'Error',
      errorMessage: error.message,
      trace: String(error.stack ?? '').split('\n').map((line) => line.trimEnd()),
    };
  }
  return { errorType: typeof error, errorMessage: error === undefined ? 'undefined' : String(error), trace: [] };
}

function errorHeaders(errorType) {
  return `Lambda-Runtime-Function-Error-Type: ${String(errorType).replace(/[^ -~]/g, '?')}\r\n`;
}

let requestId = 'undefined';

/** From the most detail to the least. */
const LEVELS = ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL'];

let logIsJson = false;
let leastLevel = 'TRACE';

function write(text) {
  let rest = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(fs.writeSync(1, rest));
    } catch (error) {
      if (error.code !== 'EAGAIN') return;
    }
  }
}

function isLogged(level) {
  return LEVELS.indexOf(level) >= LEVELS.indexOf(leastLevel);
}

function writeLine(level, message) {
  write(`${new Date().toISOString()}\t${requestId}\t${level}\t${message.replace(/\n/g, '\r')}\n`);
}

function errorMembers(error) {
  const errorType = error.constructor?.name ?? 'UnknownError';
  const stackTrace = typeof error.stack === 'string' ? error.stack.split('\n') : [];
  return { errorType, errorMessage: error.message, stackTrace };
}

const withErrors = (_, value) => (value instanceof Error ? { ...errorMembers(value), ...value } : value);

/** Writes one JSON object: a single value as it is, several as one text. */
function writeRecord(level, values) {
  const record = {
    timestamp: new Date().toISOString(),
    level,
    requestId: requestId === 'undefined' ? undefined : requestId,
  };
  const [only] = values;
  let line;
  if (values.length === 1 && ['object', 'string', 'number', 'boolean'].includes(typeof only)) {
    try {
      line = JSON.stringify({ ...record, message: only }, withErrors);
    } catch {
      // It is no JSON: a circle, say.
    }
  }
  if (line === undefined) {
    const error = values.length > 1 ? values.find((value) => value instanceof Error) : undefined;
    const message = format(...values);
    try {
      line = JSON.stringify({ ...record, message, ...(error && errorMembers(error)) });
    } catch {
      line = JSON.stringify({ ...record, message });
    }
  }
  write(`${line}\n`);
}

function installConsole() {
  logIsJson = process.env.AWS_LAMBDA_LOG_FORMAT?.toUpperCase() === 'JSON';
  const least = process.env.AWS_LAMBDA_LOG_LEVEL?.toUpperCase();
  if (LEVELS.includes(least)) leastLevel = least;
  const levels = { log: 'INFO', debug: 'DEBUG', info: 'INFO', warn: 'WARN', error: 'ERROR', trace: 'TRACE', fatal: 'FATAL' };
  for (const [name, level] of Object.entries(levels)) {
    if (!isLogged(level)) console[name] = () => {};
    else if (logIsJson) console[name] = (...values) => writeRecord(level, values);
    else console[name] = (...values) => writeLine(level, format(...values));
  }
}

function reportError(title, payload) {
  if (!isLogged('ERROR')) return;
  if (logIsJson) {
    const { errorType, errorMessage, trace } = payload;
    writeRecord('ERROR', [{ errorType, errorMessage, stackTrace: trace }]);
  } else {
    writeLine('ERROR', `${title} \t${JSON.stringify({ ...payload, trace: undefined, stack: payload.trace })}`);
  }
}

function installStreaming() {
  const streaming = Symbol.for('aws.lambda.runtime.handler.streaming');
  globalThis.awslambda = {
    streamifyResponse(handler, options) {
      handler[streaming] = options?.highWaterMark ?? true;
      return handler;
    },
    HttpResponseStream: {
      from(stream, prelude) {
        stream.setContentType('application/vnd.awslambda.http-integration-response');
        stream.prelude = Buffer.concat([Buffer.from(JSON.stringify(prelude)), Buffer.alloc(8)]);
        return stream;
      },
    },
  };
  return streaming;
}

/** The stream whose answer has begun and is not over. */
let openStream = null;

/** What a streaming handler writes: each write is a chunk of the answer, sent at once. */
class ResponseStream extends Writable {
  prelude = null;

  begun = false;

  constructor(api, id, highWaterMark) {
    super(typeof highWaterMark === 'number' ? { highWaterMark } : {});
    this.api = api;
    this.id = id;
    this.contentType = 'application/octet-stream';
  }

  setContentType(contentType) {
    this.contentType = String(contentType).replace(/[^ -~]/g, '?');
  }

  _write(chunk, encoding, done) {
    this.sendChunk([chunk], done);
  }

  _writev(chunks, done) {
    this.sendChunk(chunks.map(({ chunk }) => chunk), done);
  }

  _final(done) {
    if (!this.begun || this.prelude) this.sendChunk([], done);
    else done();
  }

  sendChunk(pieces, done) {
    const data = Buffer.concat(this.prelude ? [this.prelude, ...pieces] : pieces);
    this.prelude = null;
    const head = this.begun ? '' : this.api.streamHead(this.id, this.contentType);
    this.begun = true;
    openStream = this;
    if (data.length === 0) this.api.push(head, done);
    else this.api.push(Buffer.concat([Buffer.from(`${head}${data.length.toString(16)}\r\n`), data, Buffer.from('\r\n')]), done);
  }

  /** Ends the stream, if the handler has not, once all that was written is on its way. */
  settle() {
    return new Promise((resolve) => {
      finished(this, { readable: false }, resolve);
      if (!this.writableEnded) this.end();
    });
  }

  /** What ends the answer; with an error, the trailers tell of it. */
  ending(payload) {
    openStream = null;
    this.destroy();
    if (!payload) return '0\r\n\r\n';
    const body = Buffer.from(JSON.stringify(payload)).toString('base64');
    return `0\r\n${errorHeaders(payload.errorType)}Lambda-Runtime-Function-Error-Body: ${body}\r\n\r\n`;
  }
}

function splitHandler(name) {
  const base = path.basename(name);
  const found = /^([^.]*)\.(.+)$/.exec(base);
  if (!found || name.includes('..')) throw new Fault('Runtime.MalformedHandlerName', 'Bad handler');
  return { file: path.join(name.slice(0, name.length - base.length), found[1]), members: found[2].split('.') };
}

function isFile(file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.isFile() ?? false;
}

/** Whether a `.js` file counts as an ECMAScript module: the nearest package.json decides. */
function isModulePackage(folder) {
  for (let at = folder; ; at = path.dirname(at)) {
    const manifest = path.join(at, 'package.json');
    if (isFile(manifest)) {
      try {
        return JSON.parse(fs.readFileSync(manifest, 'utf8')).type === 'module';
      } catch {
        return false;
      }
    }
    if (at === TASK_ROOT || at === path.dirname(at)) return false;
  }
}

async function loadModule(file) {
  const full = path.resolve(TASK_ROOT, file);
  const require = createRequire(path.join(TASK_ROOT, 'index.js'));
  if (isFile(full)) return require(full);
  if (isFile(`${full}.js`)) {
    return isModulePackage(path.dirname(full)) ? import(pathToFileURL(`${full}.js`).href) : require(`${full}.js`);
  }
  if (isFile(`${full}.mjs`)) return import(pathToFileURL(`${full}.mjs`).href);
  if (isFile(`${full}.cjs`)) return require(`${full}.cjs`);
  return require(require.resolve(`./${file}`, { paths: [TASK_ROOT, path.dirname(full)] }));
}

async function loadHandler(name) {
  const { file, members } = splitHandler(name);
  let module;
  try {
    module = await loadModule(file);
  } catch (error) {
    if (error instanceof SyntaxError) throw new Fault('Runtime.UserCodeSyntaxError', String(error), error);
    if (error?.code === 'MODULE_NOT_FOUND' || error?.code === 'ERR_MODULE_NOT_FOUND') {
      throw new Fault('Runtime.ImportModuleError', String(error), error);
    }
    throw error;
  }
  const pick = (from) => members.reduce((value, member) => value?.[member], from);
  const handler = pick(module) ?? pick(module?.default);
  if (handler === undefined || handler === null) {
    throw new Fault('Runtime.HandlerNotFound', `${path.basename(file)}.${members.join('.')} is undefined or not exported`);
  }
  if (typeof handler !== 'function') {
    throw new Fault('Runtime.HandlerNotFound', `${path.basename(file)}.${members.join('.')} is not a function`);
  }
  return handler;
}

function parseOptional(text) {
  return text ? JSON.parse(text) : undefined;
}

function contextOf(headers, finish) {
  const deadlineMs = Number(headers['lambda-runtime-deadline-ms'] ?? 0);
  const settle = (error, answer) => (error ? finish.fail(error) : finish.succeed(answer));
  return {
    callbackWaitsForEmptyEventLoop: true,
    functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
    clientContext: parseOptional(headers['lambda-runtime-client-context']),
    identity: parseOptional(headers['lambda-runtime-cognito-identity']),
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    tenantId: headers['lambda-runtime-aws-tenant-id'],
    getRemainingTimeInMillis: () => Math.max(deadlineMs - Date.now(), 0),
    done: (error, answer) => settle(error, answer),
    succeed: (answer) => finish.succeed(answer),
    fail: (error) => finish.fail(error ?? 'handled'),
  };
}

function serialise(answer) {
  try {
    return JSON.stringify(answer === undefined ? null : answer) ?? 'null';
  } catch {
    throw new Fault('Runtime.MarshalError', 'Unable to stringify response body');
  }
}

/** What ends an invocation whose handler neither answered nor has anything left to wait for. */
let whenIdle = null;

/** Runs the handler once; settles with its answer or rejects with its error. */
function run(handler, stream, { headers, body }) {
  return new Promise((resolve, reject) => {
    // `done`, `succeed` and `fail` answer at once; the callback waits for the event loop, if asked to.
    const context = contextOf(headers, { succeed: resolve, fail: reject });
    whenIdle = () => resolve(null);
    const event = JSON.parse(body);
    if (stream) {
      stream.on('finish', resolve);
      stream.on('error', reject);
      Promise.resolve(handler(event, stream, context)).then(() => stream.writableEnded || stream.end(), reject);
      return;
    }
    const callback = (error, answer) => {
      const settle = () => (error === undefined || error === null ? resolve(answer) : reject(error));
      if (context.callbackWaitsForEmptyEventLoop) whenIdle = settle;
      else settle();
    };
    const answer = handler(event, context, callback);
    if (typeof answer?.then === 'function') answer.then(resolve, reject);
  });
}

/** `highWaterMark` is that of a streaming handler's stream, and undefined for any other handler. */
async function answerTo(api, handler, highWaterMark, request) {
  const id = request.headers['lambda-runtime-aws-request-id'];
  requestId = id;
  if (request.headers['lambda-runtime-trace-id']) process.env._X_AMZN_TRACE_ID = request.headers['lambda-runtime-trace-id'];
  else delete process.env._X_AMZN_TRACE_ID;
  const stream = highWaterMark === undefined ? null : new ResponseStream(api, id, highWaterMark);
  try {
    const answer = await run(handler, stream, request);
    await stream?.settle();
    return stream ? stream.ending() : api.post(`invocation/${id}/response`, serialise(answer), '');
  } catch (error) {
    const payload = describe(error);
    reportError('Invoke Error', payload);
    if (stream?.begun) {
      await stream.settle();
      return stream.ending(payload);
    }
    return api.post(`invocation/${id}/error`, JSON.stringify(payload), errorHeaders(payload.errorType));
  } finally {
    whenIdle = null;
  }
}

async function serve(api, handler, streaming) {
  const highWaterMark = handler[streaming];
  process.on('beforeExit', () => {
    const idle = whenIdle;
    whenIdle = null;
    idle?.();
  });
  api.send(api.nextRequest);
  for (;;) {
    // Only the wait for an event keeps the process alive; a handler's own work does so for itself.
    api.socket.ref();
    const request = await api.receive();
    api.socket.unref();
    const answer = await answerTo(api, handler, highWaterMark, request);
    api.socket.ref();
    api.send(answer, api.nextRequest);
    const reply = await api.receive();
    if (reply.status >= 500) process.exit(1);
  }
}

/** Reports an error that no handler caught, to the invocation it belongs to, and ends the process. */
async function die(api, error, errorType, title, status) {
  const payload = { ...describe(error), errorType };
  reportError(title, payload);
  const route = requestId === 'undefined' ? 'init/error' : `invocation/${requestId}/error`;
  api.socket.ref();
  if (openStream) api.send(openStream.ending(payload));
  else api.send(api.post(route, JSON.stringify(payload), errorHeaders(errorType)));
  await api.receive();
  process.exit(status);
}

/** Says that all is loaded, then blocks until the platform says what to become. */
function waitForOrders() {
  fs.writeSync(CONTROL_FD, '\n');
  const chunks = [];
  const chunk = Buffer.alloc(65536);
  for (;;) {
    const bytes = fs.readSync(CONTROL_FD, chunk);
    if (bytes === 0) process.exit(0);
    chunks.push(Buffer.from(chunk.subarray(0, bytes)));
    if (chunk[bytes - 1] === 10) break;
  }
  fs.closeSync(CONTROL_FD);
  return JSON.parse(Buffer.concat(chunks).toString('utf8'));
}

function become({ environment }) {
  for (const name of Object.keys(process.env)) if (!(name in environment)) delete process.env[name];
  Object.assign(process.env, environment);
  process.chdir(TASK_ROOT);
}

/**
 * Goes through some invocations with a platform of its own, so that what the real first one needs is
 * loaded and compiled by then.
 */
async function rehearse() {
  const event = 'HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: 0\r\nContent-Length: 2\r\n\r\n{}';
  const server = net.createServer((guest) => {
    guest.on('data', (data) => guest.write(data.includes('POST') ? event + event : event));
    guest.on('error', () => {});
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const api = new RuntimeApi(`127.0.0.1:${server.address().port}`, () => {});
  const { default: handler } = await import('data:text/javascript,export default async () => ({})');
  api.send(api.nextRequest);
  for (let round = 0; round < REHEARSALS; round += 1) {
    api.send(await answerTo(api, handler, undefined, await api.receive()), api.nextRequest);
    await api.receive();
  }
  const closed = new Promise((resolve) => server.close(resolve));
  api.socket.destroy();
  await closed;
  requestId = 'undefined';
}

async function main() {
  const require = createRequire(import.meta.url);
  for (const name of PRELOADED) require(name);
  // If the rehearsal fails, only time is lost.
  await rehearse().catch(() => {});
  const orders = waitForOrders();
  become(orders);
  installConsole();
  const streaming = installStreaming();
  // When the platform goes away nothing is left to do.
  const api = new RuntimeApi(process.env.AWS_LAMBDA_RUNTIME_API, () => process.exit(0));
  process.on('uncaughtException', (error) => die(api, error, 'Runtime.UncaughtException', 'Uncaught Exception', EXIT_UNCAUGHT_EXCEPTION));
  process.on('unhandledRejection', (error) => die(api, error, 'Runtime.UnhandledPromiseRejection', 'Unhandled Promise Rejection', EXIT_UNHANDLED_REJECTION));
  let handler;
  try {
    handler = await loadHandler(orders.handler);
  } catch (error) {
    const payload = describe(error);
    reportError('Uncaught Exception', payload);
    api.send(api.post('init/error', JSON.stringify(payload), errorHeaders(payload.errorType)));
    await api.receive();
    process.exit(1);
  }
  await serve(api, handler, streaming);
}

main();
