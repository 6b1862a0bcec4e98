// Checks of op operands, in one voice: the op and argument, what came, what was expected. Kernels check no meaning.
import { OpenMoeError } from '../errors.ts'
import { type DType, type HostTensor, Matrix, type Tensor } from '../tensor.ts'

/** A dimension that must equal a number, or a name for one that may be anything. */
type Dim = number | string

/** Checks dtype and shape of `op`'s `argument` and returns the shape. */
export function expectTensor(
  op: string,
  argument: string,
  tensor: Tensor | HostTensor,
  dtype: DType | readonly DType[],
  shape: readonly Dim[],
): number[] {
  const dtypes = typeof dtype === 'string' ? [dtype] : dtype
  const fits =
    dtypes.includes(tensor.dtype) &&
    tensor.shape.length === shape.length &&
    shape.every((dim, i) => typeof dim === 'string' || dim === tensor.shape[i])
  if (!fits) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `${op}: ${argument} is ${tensor.dtype} [${tensor.shape.join(', ')}], expected ${dtypes.join(' or ')} [${shape.join(', ')}]`,
    )
  }
  return [...tensor.shape]
}

/** Checks that packed weights take `inFeatures` inputs (and are `count` matrices). */
export function expectMatrix(
  op: string,
  argument: string,
  matrix: Matrix,
  inFeatures: number,
  count = 1,
): void {
  if (!(matrix instanceof Matrix)) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `${op}: ${argument} is no Matrix. Make one with device.matrix().`,
    )
  }
  if (matrix.inFeatures !== inFeatures || matrix.count !== count) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `${op}: ${argument} is ${matrix.count} x [${matrix.outFeatures}, ${matrix.inFeatures}], ` +
        `expected ${count} x [out_features, ${inFeatures}]`,
    )
  }
}

export function expectThat(condition: boolean, op: string, message: string): void {
  if (!condition) throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `${op}: ${message}`)
}
