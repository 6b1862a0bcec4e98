import { OpenMoeError } from '../errors.ts'

/** Ids as the addon takes them; an Int32Array is passed on as it is. */
export function toIds(ids: ArrayLike<number>): Int32Array {
  if (ids instanceof Int32Array) return ids
  const array = new Int32Array(ids.length)
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!
    if (!Number.isInteger(id) || id < 0 || id > 0x7fffffff) {
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `ids[${i}] is ${id}; a token id is a non-negative 32-bit integer.`,
      )
    }
    array[i] = id
  }
  return array
}
