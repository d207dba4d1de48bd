/** What was served so far, by all connections. */
export interface Traffic {
  /** At the moment. */
  clients: number;
  requests: number;
  bytesRead: number;
  bytesWritten: number;
}

export function noTraffic(): Traffic {
  return { clients: 0, requests: 0, bytesRead: 0, bytesWritten: 0 };
}
