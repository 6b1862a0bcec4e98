// Checks of op operands, in one voice: the op and argument, what came, what was expected. Kernels check no meaning.
import { OpenMoeError } from '../errors.ts'
import { type DType, type HostTensor, Matrix, type MatrixLayout, type Tensor } from '../tensor.ts'

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
  if ('layout' in tensor && tensor.layout === 'panel') {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `${op}: ${argument} is grouped by expert in the device's own layout, expected plain rows. ` +
        'Pass it to groupedGemm(), groupedGemmSwiglu() or moeUnpermute(), or return it from run().',
    )
  }
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

/** Checks rows grouped by expert, plain or in the device's own layout, and returns their shape. */
export function expectPanel(
  op: string,
  argument: string,
  tensor: Tensor | HostTensor,
  shape: readonly Dim[],
): number[] {
  const isPanel = 'panel' in tensor && tensor.panel !== null
  const plain: HostTensor = { dtype: 'f32', shape: tensor.shape, data: new Float32Array(0) }
  return expectTensor(op, argument, isPanel ? plain : tensor, 'f32', shape)
}

/** Checks that packed weights take `inFeatures` inputs (and are `count` matrices). */
export function expectMatrix(
  op: string,
  argument: string,
  matrix: Matrix,
  inFeatures: number,
  { count = 1, layout = 'rows' }: { count?: number; layout?: MatrixLayout } = {},
): void {
  if (!(matrix instanceof Matrix)) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `${op}: ${argument} is no Matrix. Make one with device.matrix().`,
    )
  }
  if (matrix.layout !== layout) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `${op}: ${argument} has the layout '${matrix.layout}', expected '${layout}'. ` +
        `Make it with device.matrix(weights, dtype, { layout: '${layout}' }).`,
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
