/** Which of the project's sources and packages a command line loads, as V8 reports it. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ENGINE_FOLDERS = ['recycler', 'image', 'device', 'compactor', 'format', 'disk', 'nbd'];

/** Files loaded from this project by `node ...args`, packages by name, sources by path below src. */
export function loadedModules(args, root, workDir) {
  const coverage = fs.mkdtempSync(path.join(workDir, 'coverage-'));
  spawnSync(process.execPath, args, { env: { ...process.env, NODE_V8_COVERAGE: coverage }, stdio: 'ignore' });
  const packages = new Set();
  const sources = new Set();
  for (const name of fs.readdirSync(coverage)) {
    const { result } = JSON.parse(fs.readFileSync(path.join(coverage, name), 'utf8'));
    for (const { url } of result) {
      if (!url.startsWith('file://')) continue;
      const file = fileURLToPath(url);
      const inDist = file.startsWith(path.join(root, 'dist'));
      for (const source of inDist ? sourcesOf(file) : [file]) {
        const inPackage = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(source);
        if (inPackage !== null) packages.add(inPackage[1]);
        else if (inDist) sources.add(source);
      }
    }
  }
  fs.rmSync(coverage, { recursive: true });
  return { packages: [...packages].sort(), sources: [...sources].sort() };
}

export function engineSources({ sources }) {
  return sources.filter((source) => ENGINE_FOLDERS.includes(source.split('/')[0]));
}

/** What was bundled into a built file, by its source map. */
function sourcesOf(file) {
  const { sources } = JSON.parse(fs.readFileSync(`${file}.map`, 'utf8'));
  return sources.map((source) => {
    const full = path.resolve(path.dirname(file), source);
    return full.replace(/^.*\/src\//, '');
  });
}
