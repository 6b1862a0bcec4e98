import { readFile } from 'node:fs/promises'
import { readFailure } from '../checkpoint/file_reader.ts'

/** @throws OpenMoeError ERR_OPENMOE_FILE_READ */
export async function readTextFile(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw readFailure(path, 'open', error)
  }
}
