/**
 * ONNX Runtime (from 1.30 on Linux) reports to its makers what it runs on and what with, and keeps files for that in TMPDIR,
 * one a process. It reads this as it is loaded: to be set before, here or in the environment of a process that is started.
 */
const VARIABLE = 'ORT_DISABLE_TELEMETRY'

/** The environment of a process that loads it. Whoever set the variable is asked nothing. */
export function withoutTelemetry(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  return { [VARIABLE]: '1', ...env }
}

/** For a process that loads it itself. */
export function disableTelemetry(): void {
  process.env[VARIABLE] ??= '1'
}
