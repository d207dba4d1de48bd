#!/usr/bin/env node
const { existsSync } = require('node:fs');

const main = `${__dirname}/../dist/cli/main.js`;
if (existsSync(main)) {
  require(main);
} else {
  process.stderr.write('qcow-compact: not built yet; run `npm run build` in its folder first\n');
  process.exitCode = 70;
}
