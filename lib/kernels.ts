// The kernel user's door: the ops of the package on a device, typed arrays in, typed arrays out.
export {
  CompiledProgram,
  Device,
  type DeviceInfo,
  type DeviceOptions,
  devices,
  openDevice,
} from './device.ts'
export { OpenMoeError } from './errors.ts'
export * as ops from './ops/index.ts'
export { Program, type TensorLike } from './program.ts'
export { type DType, type HostTensor, Matrix, tensor, Tensor } from './tensor.ts'
