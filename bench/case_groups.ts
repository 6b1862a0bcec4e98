// The groups of cases: timed the same way, and comparable with another revision's.
import type { Group } from './cases.ts'
import { modelGroup } from './model/model.bench.ts'
import { moeLayerGroup } from './model/moe_layer.bench.ts'
import { opGroups } from './ops.ts'

export const caseGroups = (): Group[] => [...opGroups(), moeLayerGroup, modelGroup]
