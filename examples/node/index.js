// What a service in Node does with Beeline: publish, send, command, subscribe. It reads the protos of this repository, and what
// beeline up says of its router.
//
//   node index.js publish TOPIC TEXT
//   node index.js send CLIENT TOPIC TEXT
//   node index.js command CLIENT TOPIC TEXT
//   node index.js subscribe FILTER...
'use strict';

const fs = require('fs');
const path = require('path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const root = path.join(__dirname, '..', '..');
const data = process.env.BEELINE_DATA || path.join(root, 'beeline-data');

// connect returns a client of MessagingService. A token goes with each call.
function connect() {
  const definition = protoLoader.loadSync('beeline/messaging/v1/messaging_service.proto', {
    includeDirs: [path.join(root, 'api/proto'), path.join(root, 'api/third_party')],
    keepCase: true, // names of fields as in the protos
    longs: String,
    enums: String,
    oneofs: true,
  });
  const { MessagingService } = grpc.loadPackageDefinition(definition).beeline.messaging.v1;
  const endpoints = JSON.parse(fs.readFileSync(path.join(data, 'endpoints.json'), 'utf8'));
  const token = fs.readFileSync(endpoints.operator.token_file, 'utf8').trim();
  const withToken = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    done(null, metadata);
  });
  const tls = grpc.credentials.createSsl(fs.readFileSync(endpoints.ca_file));
  // The router listens on 127.0.0.1: Node warns when it is asked for the certificate of an address, and it has one for localhost.
  const options = { 'grpc.ssl_target_name_override': 'localhost' };
  return new MessagingService(endpoints.router.grpc, grpc.credentials.combineChannelCredentials(tls, withToken), options);
}

// call is a unary call as a promise.
function call(client, method, request) {
  return new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + 15000);
    client[method](request, { deadline }, (err, answer) => (err ? reject(err) : resolve(answer)));
  });
}

// subscribe calls handle with each message, and acknowledges it when that has ended. It resolves when the stream ends.
function subscribe(client, filters, handle) {
  return new Promise((resolve, reject) => {
    const stream = client.Subscribe();
    process.once('SIGINT', () => stream.end());
    stream.write({ open: { filters: filters.map((filter) => ({ filter })) } });
    stream.on('data', async (response) => {
      if (response.response === 'opened') {
        console.error('ready');
        return;
      }
      for (const m of response.messages.messages) {
        await handle(m);
        stream.write({ acknowledge: { delivery_ids: [m.delivery_id] } });
      }
    });
    stream.on('error', reject);
    stream.on('end', resolve);
  });
}

async function main([what, ...args]) {
  const client = connect();
  const message = (topic, text) => ({ topic, payload: Buffer.from(text || '') });
  try {
    switch (what) {
      case 'publish': {
        const r = await call(client, 'Publish', { message: message(args[0], args[1]) });
        console.log(r.matched ? 'somebody gets it' : 'nobody has subscribed to it');
        break;
      }
      case 'send': {
        const r = await call(client, 'Send', { receiver: { client_id: args[0] }, message: message(args[1], args[2]), wait: 'WAIT_ACKNOWLEDGED' });
        for (const n of r.counts) console.log(`${n.receivers} ${n.outcome}`);
        break;
      }
      case 'command': {
        const r = await call(client, 'Command', { client_id: args[0], message: message(args[1], args[2]) });
        console.log(r.message.payload.toString());
        break;
      }
      case 'subscribe':
        await subscribe(client, args, (m) => console.log(m.message.topic, m.message.payload.toString()));
        break;
      default:
        throw new Error('publish TOPIC TEXT | send CLIENT TOPIC TEXT | command CLIENT TOPIC TEXT | subscribe FILTER...');
    }
  } finally {
    client.close();
  }
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err.details || err.message); // err.code is the code of gRPC
  process.exitCode = 1;
});
