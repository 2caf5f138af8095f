/** Loaded before a program (`node --import`): sets its clock off by RANKMILL_TEST_CLOCK_MS; intervals stay what they are. */
const off = Number(process.env['RANKMILL_TEST_CLOCK_MS'] ?? 0)
const Clock = globalThis.Date

globalThis.Date = new Proxy(Clock, {
  construct: (_, args, made) => Reflect.construct(Clock, args.length === 0 ? [Clock.now() + off] : args, made),
  apply: () => new Clock(Clock.now() + off).toString(),
  get: (_, name) => (name === 'now' ? () => Clock.now() + off : Reflect.get(Clock, name)),
})
