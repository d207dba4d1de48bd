/** What was served so far, by all connections. */
export interface Traffic {
  /** Of the disk, at the moment. */
  clients: number;
  requests: number;
  bytesRead: number;
  bytesWritten: number;
  /** That the disk has finished, in vain or not: writes, zeroes and discards. */
  changes: number;
}

export function noTraffic(): Traffic {
  return { clients: 0, requests: 0, bytesRead: 0, bytesWritten: 0, changes: 0 };
}
