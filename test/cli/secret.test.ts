import { describe, expect, test } from 'vitest';
import { UsageError } from '../../src/cli/arguments.js';
import { readSecret } from '../../src/cli/secret.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const directory = temporaryDirectory();
const text = (secret: Uint8Array | undefined) => secret && Buffer.from(secret).toString('latin1');

function refusal(file: string): string {
  try {
    readSecret(file, {});
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  return 'accepted';
}

test.each(['secret', 'secret\n', '', '\0\xff\r\n', 'x'.repeat(1 << 20)])(
  'a file is taken as it is: %j',
  (content) => {
    const file = directory.store('secret', Buffer.from(content, 'latin1'));
    expect(text(readSecret(file, {}))).toBe(content);
  },
);

describe('refused', () => {
  test('what is not there', () => {
    expect(refusal(directory.path('missing'))).toMatch(
      /^cannot read the secret file `.*missing`: no such file.*ENOENT/,
    );
  });

  test('a directory', () => {
    expect(refusal(directory.path('.'))).toMatch(/^cannot read the secret file.*EISDIR/);
  });

  test('an empty name', () => {
    expect(refusal('')).toMatch(/^cannot read the secret file/);
  });

  test('what never ends, or is no secret', () => {
    expect(refusal('/dev/zero')).toMatch(/has more than 1048576 bytes/);
    expect(refusal(directory.store('long', Buffer.alloc((1 << 20) + 1)))).toMatch(/has more than/);
  });
});

describe('the environment', () => {
  test('gives the secret where no file does, and does not keep it', () => {
    const environment = { QCOW_SECRET: 'pässword', OTHER: 'x' };
    expect(Buffer.from(readSecret(undefined, environment)!).toString()).toBe('pässword');
    expect(environment).toEqual({ OTHER: 'x' });
  });

  test('comes after the file', () => {
    const environment = { QCOW_SECRET: 'other' };
    expect(text(readSecret(directory.store('secret', Buffer.from('file')), environment))).toBe('file');
    expect(environment).toEqual({});
  });

  test.each([{}, { QCOW_SECRET: '' }])('without a value there is no secret: %j', (environment) => {
    expect(readSecret(undefined, environment)).toBeUndefined();
  });
});
