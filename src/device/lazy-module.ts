/** Native modules, loaded at the first need, so that a host without one of them runs everything else. */
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/** Loads `name` once; null where it is not installed or does not fit this host. */
export function lazyModule<T>(name: string): () => T | null {
  let loaded: T | null | undefined;
  return () => {
    if (loaded === undefined) {
      try {
        loaded = require(name) as T;
      } catch {
        loaded = null;
      }
    }
    return loaded;
  };
}
