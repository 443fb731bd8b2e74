// Google's Node client uses the bucket "node" of the local cloud.
//
// It prints one line a step and ends with status 1 if one failed.
// Usage: node storage.cjs URL, with the access token in $DIFYUP_TOKEN and the client and google-auth-library in $NODE_PATH.
"use strict";

const assert = require("node:assert");
const crypto = require("node:crypto");
const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const zlib = require("node:zlib");
const { Storage } = require("@google-cloud/storage");
const { OAuth2Client } = require("google-auth-library");

const authClient = new OAuth2Client();
authClient.setCredentials({ access_token: process.env.DIFYUP_TOKEN });
const storage = new Storage({
  apiEndpoint: process.argv[2].replace(/\/+$/, ""), projectId: "conformance", authClient,
  retryOptions: { autoRetry: true, maxRetries: 2, totalTimeout: 20 },
});
// At an endpoint that is not Google's the client sends its resumable uploads without a token, whatever it is told.
storage.interceptors.push({ request: (r) => ({ ...r, headers: { ...r.headers, Authorization: `Bearer ${process.env.DIFYUP_TOKEN}` } }) });
const bucket = storage.bucket("node");
const data = crypto.randomBytes(3_000_000);

async function read(file, options) {
  const chunks = [];
  for await (const chunk of file.createReadStream(options)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function refused(code, promise) {
  await assert.rejects(promise, (e) => Number(e.response?.status ?? e.code) === code || assert.fail(`refused otherwise: ${e.message}`));
}

const steps = {
  async makeABucket() {
    await storage.createBucket("node", { location: "asia-northeast1" });
    assert.deepStrictEqual(await bucket.exists(), [true]);
    assert.deepStrictEqual(await storage.bucket("node-none").exists(), [false]);
  },
  async save() {
    await bucket.file("a b+c%20ü.txt").save("one"); // resumable, of unknown size
    assert.strictEqual((await bucket.file("a b+c%20ü.txt").download()).toString(), "one");
    await bucket.file("empty").save("");
    assert.strictEqual((await bucket.file("empty").download())[0].length, 0);
  },
  async saveMuch() {
    await bucket.file("much").save(data);
    assert.ok((await bucket.file("much").download())[0].equals(data));
  },
  async saveAtOnce() {
    await bucket.file("simple").save(data, { resumable: false });
    assert.ok((await bucket.file("simple").download())[0].equals(data));
  },
  async savePieces() {
    for (const chunkSize of [256 * 1024, 1024 * 1024]) {
      await bucket.file("pieces").save(data, { chunkSize });
      assert.ok((await bucket.file("pieces").download())[0].equals(data));
      await bucket.file("pieces").save(data.subarray(0, chunkSize), { chunkSize });
      assert.ok((await bucket.file("pieces").download())[0].equals(data.subarray(0, chunkSize)));
    }
  },
  async stream() {
    await pipeline(Readable.from([data.subarray(0, 1000), data.subarray(1000)]), bucket.file("stream").createWriteStream());
    assert.ok((await read(bucket.file("stream"))).equals(data));
    assert.ok((await read(bucket.file("stream"), { start: 10, end: 19 })).equals(data.subarray(10, 20)));
    assert.ok((await read(bucket.file("stream"), { start: data.length - 5 })).equals(data.subarray(-5)));
  },
  async gzipKeptAndUndone() {
    const text = "hello ".repeat(1000);
    await bucket.file("zipped").save(text, { gzip: true, contentType: "text/plain" });
    const [{ contentEncoding, size }] = await bucket.file("zipped").getMetadata();
    assert.strictEqual(contentEncoding, "gzip");
    assert.ok(Number(size) < 1000);
    assert.strictEqual((await bucket.file("zipped").download()).toString(), text);
    assert.strictEqual(zlib.gunzipSync(await read(bucket.file("zipped"), { decompress: false })).toString(), text);
  },
  async checksums() {
    for (const validation of ["crc32c", "md5"]) {
      await bucket.file("sums").save("hello world", { validation });
      assert.strictEqual((await read(bucket.file("sums"), { validation })).toString(), "hello world");
    }
    const [m] = await bucket.file("sums").getMetadata();
    assert.deepStrictEqual([m.crc32c, m.md5Hash], ["yZRlqg==", "XrY7u+Ae7tCTyyK7j1rNww=="]);
    await refused(400, bucket.file("wrong").save("hello world", { metadata: { crc32c: "AAAAAA==" }, resumable: false, validation: false }));
  },
  async preconditions() {
    await bucket.file("once").save("1", { preconditionOpts: { ifGenerationMatch: 0 } });
    await refused(412, bucket.file("once").save("2", { preconditionOpts: { ifGenerationMatch: 0 } }));
    await refused(412, bucket.file("once").delete({ ifGenerationMatch: 1 }));
    await refused(404, bucket.file("none").download());
    await bucket.file("once").delete();
  },
  async metadata() {
    await bucket.file("meta").save("x", { metadata: { cacheControl: "no-store", metadata: { colour: "blue" } } });
    await bucket.file("meta").setMetadata({ metadata: { shape: "round" } });
    const [m] = await bucket.file("meta").getMetadata();
    assert.deepStrictEqual([m.cacheControl, m.metadata, m.metageneration], ["no-store", { colour: "blue", shape: "round" }, "2"]);
  },
  async copyMoveCombine() {
    await bucket.file("much").copy(bucket.file("copied"));
    await bucket.file("copied").rename("renamed");
    assert.ok((await bucket.file("renamed").download())[0].equals(data));
    assert.deepStrictEqual(await bucket.file("copied").exists(), [false]);
    await bucket.combine(["simple", "meta"], "combined");
    assert.ok((await bucket.file("combined").download())[0].equals(Buffer.concat([data, Buffer.from("x")])));
  },
  async listing() {
    for (const name of ["l/a.txt", "l/b.txt", "l/d/c.txt", "l/d/e.bin"]) await bucket.file(name).save("x");
    const [files, , answer] = await bucket.getFiles({ prefix: "l/", delimiter: "/", autoPaginate: false });
    assert.deepStrictEqual([files.map((f) => f.name), answer.prefixes], [["l/a.txt", "l/b.txt"], ["l/d/"]]);
    const [one, next] = await bucket.getFiles({ prefix: "l/", maxResults: 1, autoPaginate: false });
    const [rest] = await bucket.getFiles({ ...next, maxResults: 3 });
    assert.deepStrictEqual([...one, ...rest].map((f) => f.name), ["l/a.txt", "l/b.txt", "l/d/c.txt", "l/d/e.bin"]);
    const [globbed] = await bucket.getFiles({ matchGlob: "l/**.txt" });
    assert.deepStrictEqual(globbed.map((f) => f.name), ["l/a.txt", "l/b.txt", "l/d/c.txt"]);
  },
  async emptyAndDelete() {
    await refused(409, bucket.delete());
    await bucket.deleteFiles({ versions: true, prefix: "" });
    await bucket.delete();
  },
};

(async () => {
  let failed = 0;
  for (const [name, run] of Object.entries(steps)) {
    try {
      await run();
      console.log("ok", name);
    } catch (e) {
      failed++;
      console.log("FAILED", name, e.stack ?? e);
    }
  }
  process.exit(failed ? 1 : 0);
})();
