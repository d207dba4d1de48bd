/** The numbers of the NBD protocol: fixed newstyle negotiation, and the transmission that follows it. */

/** Words of 64 bits as two halves. */
export const MAGIC = {
  greeting: [0x4e42444d, 0x41474943],
  option: [0x49484156, 0x454f5054],
  optionReply: [0x0003e889, 0x045565a9],
} as const;

export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const CHUNK_MAGIC = 0x668e33ef;

/** What the server offers first, and what the client takes of it; the same bits. */
export const HandshakeFlag = { fixedNewstyle: 1 << 0, noZeroes: 1 << 1 } as const;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  /** Of this server alone: others answer that it is unsupported. Its data are the name of a command (control.ts). */
  control: 0x71636f77,
} as const;

const ERROR = 2 ** 31;

export const Reply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  /** To `Option.control`, any number of times before the ACK: facts in JSON. */
  facts: 0x71636f77,
  unsupported: ERROR + 1,
  policy: ERROR + 2,
  invalid: ERROR + 3,
  tlsRequired: ERROR + 5,
  unknownExport: ERROR + 6,
  shutdown: ERROR + 7,
  tooBig: ERROR + 9,
  /** The command of `Option.control` failed: facts in JSON. */
  failed: ERROR + 0x71636f77,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
} as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CommandFlag = {
  fua: 1 << 0,
  noHole: 1 << 1,
  dontFragment: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
} as const;

export const Chunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: 2 ** 15 + 1,
} as const;

export const CHUNK_DONE = 1 << 0;

export const NbdError = {
  EPERM: 1,
  EIO: 5,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The one metadata context that is served, and the number that the server gives it. */
export const ALLOCATION = 'base:allocation';
export const ALLOCATION_ID = 1;
export const AllocationFlag = { hole: 1 << 0, zero: 1 << 1 } as const;

export const REQUEST_BYTES = 28;
export const OPTION_BYTES = 16;
export const OPTION_REPLY_BYTES = 20;
export const GREETING_BYTES = 18;

/** Longest name or query of the protocol. */
export const MOST_STRING_BYTES = 4096;
/** Most bytes that one request reads or writes. */
export const MOST_PAYLOAD_BYTES = 32 << 20;
