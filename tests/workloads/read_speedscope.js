// What speedscope's own importer makes of files: FILE, or FILE=NAME to have it take FILE for one of that name. Its bundle is
// run up to where it draws, which takes a page; the importer is in there under the names that its source gives it.
const fs = require("fs"), path = require("path"), vm = require("vm");

const release = path.join(path.dirname(require.resolve("speedscope/package.json")), "dist/release");
const bundle = fs.readdirSync(release).find((name) => /^speedscope-.*\.js$/.test(name));
const source = fs.readFileSync(path.join(release, bundle), "utf8");
const [, importer] = /([\w$]+)=\{\};[\w$]+\(\1,\{importFromFileSystemDirectoryEntry/.exec(source);
const name = importer.replace("$", "\\$");
const [, prepare] = new RegExp(`\\.then\\(\\(\\)=>\\(([\\w$]+)\\(\\),${name}\\)\\)`).exec(source);
const drawing = source.lastIndexOf("console.log(`speedscope v");
const end = source.lastIndexOf("})();");

// A page of which nothing is looked at.
const nothing = new Proxy(function () {}, {
  get: (_, name) => (name === Symbol.toPrimitive ? () => "" : nothing),
  apply: () => nothing,
  construct: () => nothing,
  set: () => true,
  has: () => true,
});
const page = {
  document: nothing, localStorage: nothing, navigator: { platform: "", userAgent: "" },
  location: { hash: "", href: "", protocol: "file:" }, matchMedia: () => nothing, addEventListener() {}, performance,
  console: { log() {}, warn() {}, error() {} }, TextDecoder, TextEncoder, URL, setTimeout, clearTimeout,
  requestAnimationFrame() {}, atob, btoa, Blob, FileReader: nothing, HTMLElement: class {}, Uint8Array, ArrayBuffer,
};
page.window = page.self = page.globalThis = page;
vm.createContext(page);
vm.runInContext(source.slice(0, drawing) + `globalThis.importer=(${prepare}(),${importer});` + source.slice(end), page);

(async () => {
  const found = {};
  for (const argument of process.argv.slice(2)) {
    const [file, name = path.basename(file)] = argument.split("=");
    const bytes = fs.readFileSync(file);
    const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
    const group = await page.importer.importProfilesFromArrayBuffer(name, buffer);
    if (!group) throw new Error(`${file} is in no format that it knows`);
    found[file] = group.profiles.map((profile) => {
      const self = {};
      profile.forEachFrame((frame) => (self[frame.name] = (self[frame.name] || 0) + frame.getSelfWeight()));
      return { name: profile.getName(), total: profile.getTotalWeight(), unit: profile.getWeightUnit(), self };
    });
  }
  console.log(JSON.stringify(found));
})();
