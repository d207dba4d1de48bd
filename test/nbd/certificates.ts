/** Certificates made for a test, by openssl. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';

export interface Identity {
  cert: string;
  key: string;
}

/** In `directory`: an authority, and what it and a stranger have signed. Paths of PEM files. */
export function makeCertificates(directory: string): {
  ca: string;
  server: Identity;
  client: Identity;
  stranger: Identity;
} {
  fs.mkdirSync(directory, { recursive: true });
  const path = (name: string): string => join(directory, name);
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { stdio: 'pipe' });
  };
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  const authority = (name: string): void =>
    openssl(
      ...['req', '-x509', ...newKey, '-subj', `/CN=${name}`, '-keyout', path(`${name}.key`)],
      ...['-out', path(`${name}.pem`)],
      ...['-addext', 'keyUsage=critical,keyCertSign,digitalSignature'],
    );
  const signed = (name: string, by: string): Identity => {
    const identity = { cert: path(`${name}.pem`), key: path(`${name}.key`) };
    openssl('req', ...newKey, '-subj', `/CN=${name}`, '-keyout', identity.key, '-out', path(`${name}.csr`));
    fs.writeFileSync(path(`${name}.ext`), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n');
    openssl(
      ...['x509', '-req', '-in', path(`${name}.csr`), '-CA', path(`${by}.pem`), '-CAkey', path(`${by}.key`)],
      ...['-CAcreateserial', '-days', '2', '-extfile', path(`${name}.ext`), '-out', identity.cert],
    );
    return identity;
  };
  authority('ca');
  authority('other');
  return {
    ca: path('ca.pem'),
    server: signed('server', 'ca'),
    client: signed('client', 'ca'),
    stranger: signed('stranger', 'other'),
  };
}
