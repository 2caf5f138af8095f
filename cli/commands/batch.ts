/** `rankmill batch`: files of requests, and whole retrieval runs. */
import { Command } from 'commander'
import { batchRunCommand } from './batch-run.js'

export function batchCommand(): Command {
  return new Command('batch').description('Rerank files: requests (run).').addCommand(batchRunCommand())
}
