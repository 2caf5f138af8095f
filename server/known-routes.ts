/** Which methods a path takes: the router itself only says that a method and path have no route. */

export class KnownRoutes {
  readonly #routes: { readonly path: RegExp; readonly methods: ReadonlySet<string> }[] = []

  add(method: string | string[], url: string): void {
    const pattern = url
      .split('/')
      .map((part) =>
        part.startsWith(':') ? '[^/]+' : part === '*' ? '.*' : part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'),
      )
      .join('/')
    this.#routes.push({ path: new RegExp(`^${pattern}$`), methods: new Set([method].flat()) })
  }

  methodsOf(path: string): string[] {
    const methods = this.#routes.filter((route) => route.path.test(path)).flatMap((route) => [...route.methods])
    return [...new Set(methods)].sort()
  }
}
