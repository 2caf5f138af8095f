/** Tables for terminals: no lines between rows, no rules at the sides, so that they fit 80 columns; colour on a terminal only. */
import Table from 'cli-table3'

const NOTHING = { left: '', right: '', mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' }
const FRAME = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
}

export function plainTable(head: string[], options: Table.TableConstructorOptions = {}): Table.Table {
  return new Table({
    head,
    style: {
      head: process.stdout.isTTY && !process.env['NO_COLOR'] ? ['bold'] : [],
      border: [],
      'padding-left': 0,
      'padding-right': 1,
    },
    chars: { ...FRAME, ...NOTHING, middle: '' },
    ...options,
  })
}
