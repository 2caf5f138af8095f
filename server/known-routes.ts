/** What a path takes, and in which words: the router itself only says that a method and path have no route. */
import type { Dialect } from './dialects/dialect.js'

interface KnownRoute {
  readonly path: RegExp
  readonly methods: ReadonlySet<string>
  readonly dialect: Dialect | undefined
}

export class KnownRoutes {
  readonly #routes: KnownRoute[] = []

  add(method: string | string[], url: string, dialect?: Dialect): void {
    const pattern = url
      .split('/')
      .map((part) =>
        part.startsWith(':') ? '[^/]+' : part === '*' ? '.*' : part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'),
      )
      .join('/')
    this.#routes.push({ path: new RegExp(`^${pattern}$`), methods: new Set([method].flat()), dialect })
  }

  methodsOf(path: string): string[] {
    const methods = this.#routes.filter((route) => route.path.test(path)).flatMap((route) => [...route.methods])
    return [...new Set(methods)].sort()
  }

  /** In which a path says its errors, whatever the method. */
  dialectOf(path: string): Dialect | undefined {
    return this.#routes.find((route) => route.dialect && route.path.test(path))?.dialect
  }
}
