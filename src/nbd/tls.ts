/** TLS within a connection that began without. */
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';

export interface TlsFiles {
  cert: Buffer;
  key: Buffer;
  /** Clients need a certificate that one of these has signed. */
  ca?: Buffer;
}

/** Throws where certificate and key are none, or not of each other. */
export function checkTls(files: TlsFiles): void {
  tls.createSecureContext(contextOf(files));
}

function contextOf({ cert, key, ca }: TlsFiles): tls.SecureContextOptions {
  return { cert, key, ...(ca !== undefined && { ca }), minVersion: 'TLSv1.2' };
}

/** The socket within TLS, once the client has shown what it must. Rejects where it does not, or breaks off. */
export async function startTls(socket: Duplex, files: TlsFiles): Promise<tls.TLSSocket> {
  const asksForCertificate = files.ca !== undefined;
  const server = tls.createServer({
    ...contextOf(files),
    requestCert: asksForCertificate,
    rejectUnauthorized: asksForCertificate,
  });
  const broken = new Promise<never>((_, reject) => {
    server.once('tlsClientError', reject);
    socket.once('close', () => reject(new Error('the client has gone during the TLS handshake')));
  });
  // It comes to nothing where the handshake succeeds first.
  broken.catch(() => undefined);
  // One that closes its side during the handshake would else be waited for.
  socket.allowHalfOpen = false;
  const secure = once(server, 'secureConnection') as Promise<[tls.TLSSocket]>;
  server.emit('connection', socket);
  const [within] = await Promise.race([secure, broken]);
  within.allowHalfOpen = true;
  return within;
}
