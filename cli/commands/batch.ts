/** `rankmill batch`: files of requests, and whole retrieval runs. */
import { Command } from 'commander'
import { batchRunCommand } from './batch-run.js'
import { batchTrecCommand } from './batch-trec.js'

export function batchCommand(): Command {
  return new Command('batch')
    .description('Rerank files: requests (run), or whole retrieval runs (trec).')
    .addCommand(batchRunCommand())
    .addCommand(batchTrecCommand())
}
