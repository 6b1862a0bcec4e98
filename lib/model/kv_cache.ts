import type { Device } from '../device.ts'
import { OpenMoeError } from '../errors.ts'
import type { KvPages } from '../ops/kv_append.ts'
import { bytesPerElement, type Tensor } from '../tensor.ts'

/** Positions per page (native/ops/kv_append.h). */
export const PAGE_TOKENS = 32

export interface KvCacheShape {
  numLayers: number
  numKvHeads: number
  headDim: number
  dtype: 'f32' | 'bf16'
  numPages: number
}

/** Bytes the cache takes for each position of a sequence, all layers. */
export function kvBytesPerToken(shape: Omit<KvCacheShape, 'numPages'>): number {
  return 2 * shape.numLayers * shape.numKvHeads * shape.headDim * bytesPerElement(shape.dtype)
}

/**
 * Paged keys and values: a page holds 32 positions of one sequence, in every layer at the same page number. Pages are
 * reserved for a whole request when it is admitted, so a running sequence never has to be evicted.
 */
export class KvCache {
  readonly shape: KvCacheShape
  private readonly device: Device
  private readonly layers: { kPages: Tensor; vPages: Tensor }[]
  private readonly freePages: number[]

  constructor(device: Device, shape: KvCacheShape) {
    this.device = device
    this.shape = shape
    const { numPages, numKvHeads, headDim, dtype } = shape
    this.layers = Array.from({ length: shape.numLayers }, () => ({
      kPages: device.empty(dtype, [numPages, numKvHeads, headDim, PAGE_TOKENS]),
      vPages: device.empty(dtype, [numPages, numKvHeads, PAGE_TOKENS, headDim]),
    }))
    this.freePages = Array.from({ length: numPages }, (_, i) => numPages - 1 - i)
  }

  layer(index: number): KvPages {
    const layer = this.layers[index]
    if (!layer) throw new OpenMoeError('ERR_OPENMOE_INTERNAL', `kv cache: no layer ${index}`)
    return layer
  }

  get numFreePages(): number {
    return this.freePages.length
  }

  /** Bytes of the pages in use, and of all. */
  get bytes(): { used: number; total: number } {
    const page = PAGE_TOKENS * kvBytesPerToken(this.shape)
    const total = this.shape.numPages
    return { used: (total - this.freePages.length) * page, total: total * page }
  }

  /** Pages for `numTokens` positions, or null while others hold too many. */
  reserve(numTokens: number): Int32Array | null {
    const count = Math.ceil(numTokens / PAGE_TOKENS)
    if (count > this.freePages.length) return null
    return Int32Array.from(this.freePages.splice(this.freePages.length - count, count))
  }

  release(pages: Int32Array): void {
    this.freePages.push(...pages)
  }

  dispose(): void {
    for (const { kPages, vPages } of this.layers) {
      this.device.free(kPages)
      this.device.free(vPages)
    }
  }
}
