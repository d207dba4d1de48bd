/** What a client may ask of the server itself, over the same sockets as the disk. */

export const CONTROL_COMMANDS = ['status', 'now'] as const;
export type ControlCommand = (typeof CONTROL_COMMANDS)[number];

/** What is told; it travels as JSON. */
export type Facts = Readonly<Record<string, unknown>>;

/** False once nobody hears it any more. */
export type Tell = (facts: Facts) => boolean;

/** Rejects with what is told to the client in JSON by `failureFacts`. */
export interface Control {
  /** `status`: what there is. `now`: compacts, tells the state now and then, and answers what it came to. */
  run(command: ControlCommand, tell: Tell): Promise<Facts>;
  failureFacts(error: unknown): Facts;
}

export function isControlCommand(text: string | null): text is ControlCommand {
  return CONTROL_COMMANDS.some((command) => command === text);
}
