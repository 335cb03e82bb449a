// Runs ipld-hashmap and IAMap for the tests. `js_hashmap.py` installs this beside its libraries and starts it.
//
// A request is a line of JSON on standard input, the answer a line on standard output: {"result": …} or
// {"error": "…"}. Bytes are base64. A key is {"text": "…"} or {"bytes": "…"}; a value is its dag-cbor, so that
// no link, no bytes and no number goes through JSON.

import { createInterface } from 'node:readline'
import * as dagCbor from '@ipld/dag-cbor'
import { murmur332, murmur3128 } from '@multiformats/murmur3'
import { blake3 as nobleBlake3 } from '@noble/hashes/blake3'
import iamap from 'iamap'
import { create, load } from 'ipld-hashmap'
import * as Block from 'multiformats/block'
import { CID } from 'multiformats/cid'
import { from as hasherFrom } from 'multiformats/hashes/hasher'
import { sha256 } from 'multiformats/hashes/sha2'

const blake3 = hasherFrom({ name: 'blake3', code: 0x1e, encode: (data) => nobleBlake3(data) })
const blockHashers = { 'sha2-256': sha256, blake3 }
const keyHashers = new Map([sha256, blake3, murmur3128, murmur332].map((hasher) => [hasher.code, hasher]))

const toBytes = (text) => new Uint8Array(Buffer.from(text, 'base64'))
const toText = (bytes) => Buffer.from(bytes).toString('base64')
const toKey = (key) => 'text' in key ? key.text : toBytes(key.bytes)
const toValue = (value) => dagCbor.decode(toBytes(value))
const fromValue = (value) => toText(dagCbor.encode(value))

const digestOf = async (code, data) => (await keyHashers.get(code).digest(data)).digest

// The store of one request; the blocks are those given, and those put.
function loaderOf (blocks) {
  const held = new Map(Object.entries(blocks).map(([cid, data]) => [cid, toBytes(data)]))
  return {
    held,
    async get (cid) {
      const data = held.get(cid.toString())
      if (data === undefined) throw new Error(`${cid} is not among the ${held.size} blocks given`)
      return data
    },
    async put (cid, data) { held.set(cid.toString(), data) }
  }
}

// A map of ipld-hashmap: `hashAlg` is only recorded, its keys are placed by sha2-256.
async function openHashMap (loader, root, { bitWidth, bucketSize, hashAlg, blockHasher }) {
  const options = { blockCodec: dagCbor, blockHasher: blockHashers[blockHasher], bitWidth, bucketSize }
  if (hashAlg !== sha256.code) options.hasher = keyHashers.get(hashAlg)
  const map = root === null ? await create(loader, options) : await load(loader, CID.parse(root), options)
  return {
    set: (key, value) => map.set(key, value),
    delete: (key) => map.delete(key),
    get: (key) => map.get(key),
    has: (key) => map.has(key),
    size: () => map.size(),
    entries: () => map.entriesRaw(),
    cids: () => map.cids(),
    root: () => map.cid
  }
}

// A map of IAMap itself, with the key hasher of its code, or with the digests given.
async function openIAMap (loader, root, { bitWidth, bucketSize, hashAlg, blockHasher, digests }) {
  // At each request: ipld-hashmap registers sha2-256 under the codes that it is given.
  for (const code of keyHashers.keys()) {
    const length = (await digestOf(code, new Uint8Array())).length
    iamap.registerHasher(code, length, (data) => digestOf(code, data))
  }
  if (digests !== null) {
    const length = toBytes(Object.values(digests)[0]).length
    iamap.registerHasher(hashAlg, length, (data) => toBytes(digests[toText(data)]))
  }
  const hasher = blockHashers[blockHasher]
  const store = {
    async save (value) {
      const block = await Block.encode({ value, codec: dagCbor, hasher })
      await loader.put(block.cid, block.bytes)
      return block.cid
    },
    async load (cid) {
      return (await Block.create({ bytes: await loader.get(cid), cid, codec: dagCbor, hasher })).value
    },
    isEqual: (a, b) => a.equals(b),
    isLink: (value) => CID.asCID(value) !== null
  }
  let map = root === null
    ? await iamap.create(store, { hashAlg, bitWidth, bucketSize })
    : await iamap.load(store, CID.parse(root))
  return {
    async set (key, value) { map = await map.set(key, value) },
    async delete (key) { map = await map.delete(key) },
    get: (key) => map.get(key),
    has: (key) => map.has(key),
    size: () => map.size(),
    async * entries () { for await (const { key, value } of map.entries()) yield [key, value] },
    cids: () => map.ids(),
    root: () => map.id
  }
}

const libraries = { 'ipld-hashmap': openHashMap, iamap: openIAMap }

// The root after `steps` on `root`, in their order, and the blocks of its tree. A step is [key, value], or [key] to delete.
async function edit ({ library, options, root, blocks, steps }) {
  const loader = loaderOf(blocks)
  const map = await libraries[library](loader, root, options)
  for (const [key, value] of steps) {
    if (value === undefined) await map.delete(toKey(key))
    else await map.set(toKey(key), toValue(value))
  }
  const nodes = {}
  for await (const cid of map.cids()) nodes[cid.toString()] = toText(await loader.get(cid))
  return { root: map.root().toString(), blocks: nodes }
}

// All that is in the map of `root`, and what `get` and `has` say of `keys`.
async function read ({ library, options, root, blocks, keys }) {
  const map = await libraries[library](loaderOf(blocks), root, options)
  const entries = []
  for await (const [key, value] of map.entries()) entries.push([toText(key), fromValue(value)])
  const values = []
  for (const key of keys.map(toKey)) {
    const value = await map.get(key)
    if (await map.has(key) !== (value !== undefined)) throw new Error('get and has differ')
    values.push(value === undefined ? null : fromValue(value))
  }
  return { entries, values, size: await map.size() }
}

async function digests ({ hashAlg, data }) {
  return Promise.all(data.map(async (bytes) => toText(await digestOf(hashAlg, toBytes(bytes)))))
}

const commands = { edit, read, digests }

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  let answer
  try {
    const { command, ...given } = JSON.parse(line)
    answer = { result: await commands[command](given) }
  } catch (error) {
    answer = { error: error.stack }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
